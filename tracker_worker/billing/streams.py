# SPDX-License-Identifier: Apache-2.0
"""The streams of numbers that are known, in memory: one for each ledger_id, host and node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tracker_worker.billing.numbers import Numbers
from tracker_worker.billing.timeline import Place

Key = tuple[str, Place]
"""A ledger_id, and a host and node."""


@dataclass(slots=True)
class Stream:
    """The numbers of one ledger_id, host and node.

    ``starts``: ``pages`` say what holds as of these numbers, so that what is before is not needed. ``forgotten``: events up to
    this number were dropped. ``announced``: ledger_id and last number that counts of the history before, and the number that
    tells it. ``began``: the time of the first event that was ever known. ``links``: the events that give the node another name:
    ``sequence``, ``generation``, ``at``, and ``to`` or ``from``. ``pages``: (sequence, after) of each. ``proof``: what was
    closed as of ``forgotten``; None: there was no node. ``gone``: the ledger has no such name.
    """

    ledger: str
    place: Place
    starts: list[int] = field(default_factory=list)
    forgotten: int = 0
    announced: tuple[str, int, int] | None = None
    began: int | None = None
    links: list[dict[str, Any]] = field(default_factory=list)
    pages: list[tuple[int, str]] = field(default_factory=list)
    proof: dict[str, Any] | None = None
    gone: bool = False
    numbers: Numbers = field(default_factory=Numbers)

    @property
    def key(self) -> Key:
        return self.ledger, self.place

    def start(self, last: int | None = None) -> int | None:
        """The last start, or the last one up to a number; None: there is none."""
        return max((number for number in self.starts if last is None or number <= last), default=None)

    def base(self, last: int | None = None) -> int:
        """The number up to which nothing of the stream is needed for what comes after it, or for what comes after ``last``."""
        begins = 0 if self.announced is None else self.announced[2] - 1
        return max(begins, self.start(last) or 0)

    @property
    def begins_here(self) -> bool:
        """Whether nothing counts of what an earlier ledger had under this name: the name was made in this one, or what was
        before was forgotten."""
        return self.forgotten > 0 or (self.announced is None and 1 in self.numbers)

    def add_link(self, link: dict[str, Any]) -> None:
        self.links = sorted([*self.links, link], key=lambda each: each["sequence"])

    def add_page(self, sequence: int, after: str) -> None:
        if (sequence, after) not in self.pages:
            self.pages = sorted([*self.pages, (sequence, after)])

    def add_start(self, sequence: int) -> None:
        if sequence not in self.starts:
            self.starts = sorted([*self.starts, sequence])

    def forget(self, upto: int) -> None:
        """Forget the numbers up to one, and what is known of them."""
        self.numbers.remove_upto(upto)
        self.pages = [each for each in self.pages if each[0] > upto]
        self.links = [each for each in self.links if each["sequence"] > upto]
        self.starts = [number for number in self.starts if number > upto]


class Streams:
    """``of_place``: the streams of each name, by ledger. ``previous``: ledger_id -> the one before it, of all histories that
    were ever announced. ``ends``: the last number that counts of each history that is known to have ended, by name and ledger;
    also of those whose streams are dropped. ``began``: when each ledger had its first event that was ever known, by host."""

    def __init__(self) -> None:
        self.of_place: dict[Place, dict[str, Stream]] = {}
        self.previous: dict[str, str] = {}
        self.ends: defaultdict[Place, dict[str, int]] = defaultdict(dict)
        self.began: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def __iter__(self) -> Iterator[Stream]:
        return (stream for streams in self.of_place.values() for stream in streams.values())

    def get(self, ledger: str, place: Place) -> Stream | None:
        return self.of_place.get(place, {}).get(ledger)

    def make(self, ledger: str, place: Place) -> Stream:
        """The stream, which is made where there is none."""
        return self.of_place.setdefault(place, {}).setdefault(ledger, Stream(ledger, place))

    def index(self, stream: Stream) -> None:
        """Take note of what a stream tells of the others. Called whenever ``announced`` or ``began`` is another one."""
        if stream.announced is not None:
            ledger, last, _ = stream.announced
            self.previous.setdefault(stream.ledger, ledger)
            self.add_end(stream.place, ledger, last)
        if stream.began is not None:
            began = self.began[stream.place[0]]
            began[stream.ledger] = min(stream.began, began.get(stream.ledger, stream.began))

    def add_end(self, place: Place, ledger: str, last: int) -> None:
        """Take note of the last number that counts of a history; the lowest one that was told is right."""
        self.ends[place][ledger] = min(last, self.ends[place].get(ledger, last))

    def drop(self, stream: Stream) -> None:
        host = stream.place[0]
        del self.of_place[stream.place][stream.ledger]
        if not self.of_place[stream.place]:
            del self.of_place[stream.place]
        if not any(stream.ledger in streams for place, streams in self.of_place.items() if place[0] == host):
            self.began[host].pop(stream.ledger, None)
