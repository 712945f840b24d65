# SPDX-License-Identifier: Apache-2.0
"""What was heard, by streams of numbers, and its place in the state.

The names in the state are JSON lists:

- ``["books"]``;
- ``["stream", ledger, host, node]``: what is known of a stream beside its events;
- ``["event", ledger, host, node, sequence]``: a record (see ``reading``);
- ``["page", ledger, host, node, sequence, after]``: what a node was charged as of a number, for the uuids behind one;
- ``["odd", number]``: a message and the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tracker_worker.billing.numbers import Numbers
from tracker_worker.billing.reading import Heard, Record
from tracker_worker.billing.state import State
from tracker_worker.billing.timeline import Place

Key = tuple[str, Place]
"""A ledger_id, and a host and node."""
MOST_ODD = 1000
"""So many odd messages are kept."""
_VERSION = 1
_FIELDS = ("starts", "forgotten", "announced", "began", "links", "pages", "proof", "gone")


@dataclass(slots=True)
class Stream:
    """The numbers of one ledger_id, host and node.

    ``starts``: ``pages`` say what holds as of these numbers, so that what is before is not needed. ``forgotten``: events up to
    this number were dropped. ``announced``: ledger_id and last number that counts of the history before, and the number
    that tells it. ``began``: the time of the first event that was ever known. ``links``: the events that give the node another
    name: ``sequence``, ``generation``, ``at``, and ``to`` or ``from``. ``pages``: (sequence, after) of each. ``proof``: what
    was closed as of ``forgotten``; None: there was no node. ``gone``: the ledger has no such name.
    """

    ledger: str
    place: Place
    starts: list[int] = field(default_factory=list)
    forgotten: int = 0
    announced: tuple[str, int, int] | None = None
    began: int | None = None
    links: list[Record] = field(default_factory=list)
    pages: list[tuple[int, str]] = field(default_factory=list)
    proof: Record | None = None
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


class Journal:
    """Raises ValueError: the state is of another version."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.streams: dict[Key, Stream] = {}
        # The last number that counts, of the streams whose history has ended.
        self.ends: dict[Key, int] = {}
        self.odd_numbers: list[int] = []
        # ledger_id -> the one before it, of all histories that were ever announced.
        self.previous: dict[str, str] = {}
        self.forgotten = 0
        known = state.get(_name("books"))
        if known is None:
            self._save_books()
        elif known["version"] != _VERSION:
            raise ValueError(f"the state is of version {known['version']}, and this release keeps books of {_VERSION}")
        else:
            self.forgotten, self.previous = known["forgotten"], dict(known["previous"])
        for name in state:
            kind, *parts = json.loads(name)
            if kind == "event":
                ledger, host, node, sequence = parts
                self.stream(ledger, (host, node)).numbers.add(sequence)
            elif kind == "stream":
                ledger, host, node = parts
                self._load(self.stream(ledger, (host, node)), state[name])
            elif kind == "odd":
                self.odd_numbers.append(parts[0])
        self.odd_numbers.sort()

    def stream(self, ledger: str, place: Place) -> Stream:
        """The stream, which is made in memory where there is none."""
        key = ledger, place
        if key not in self.streams:
            self.streams[key] = Stream(ledger, place)
        return self.streams[key]

    def save(self, stream: Stream) -> None:
        """Write what is known of a stream beside its events."""
        self._state[_name("stream", *_parts(stream))] = {name: getattr(stream, name) for name in _FIELDS}

    def add(self, heard: Heard) -> Stream:
        """Write a record whose number is new, and what it says of its stream."""
        stream = self.stream(heard.ledger, heard.place)
        record = heard.record
        stream.numbers.add(heard.sequence)
        self._state[_name("event", *_parts(stream), heard.sequence)] = record
        changed = stream.began is None or record["at"] < stream.began
        if changed:
            stream.began = record["at"]
        if "history" in record:
            ledger, last = record["history"]
            stream.announced = ledger, last, heard.sequence
            self.save(self.stream(ledger, heard.place))
            self._end(stream)
            if heard.ledger not in self.previous:
                self.previous[heard.ledger] = ledger
                self._save_books()
            changed = True
        for side in ("to", "from"):
            if side in record:
                link = {"sequence": heard.sequence, "generation": record["generation"], "at": record["at"]}
                stream.links = sorted([*stream.links, {**link, side: record[side]}], key=lambda each: each["sequence"])
                changed = True
        if changed:
            self.save(stream)
        return stream

    def record(self, stream: Stream, sequence: int) -> Record:
        record: Record = self._state[_name("event", *_parts(stream), sequence)]
        return record

    def add_page(self, stream: Stream, sequence: int, after: str, page: Record) -> None:
        """Write what a node is charged for as of a number, for the uuids behind ``after``. The caller saves the stream."""
        self._state[_name("page", *_parts(stream), sequence, after)] = page
        if (sequence, after) not in stream.pages:
            stream.pages = sorted([*stream.pages, (sequence, after)])

    def add_start(self, stream: Stream, sequence: int, at: int | None) -> None:
        """The pages of a stream say what holds as of a number, at the time ``at``."""
        if sequence not in stream.starts:
            stream.starts = sorted([*stream.starts, sequence])
        if at is not None:
            stream.began = at if stream.began is None else min(at, stream.began)
        self.save(stream)

    def page(self, stream: Stream, sequence: int, after: str) -> Record:
        page: Record = self._state[_name("page", *_parts(stream), sequence, after)]
        return page

    def drop(self, stream: Stream, upto: int | None = None) -> None:
        """Delete the events and the pages up to a number. None: delete the whole stream."""
        for sequence in list(stream.numbers.upto(upto)):
            del self._state[_name("event", *_parts(stream), sequence)]
        for sequence, after in stream.pages:
            if upto is None or sequence <= upto:
                del self._state[_name("page", *_parts(stream), sequence, after)]
        if upto is None:
            self._state.pop(_name("stream", *_parts(stream)), None)
            del self.streams[stream.key]
            return
        stream.numbers.remove_upto(upto)
        stream.pages = [each for each in stream.pages if each[0] > upto]
        stream.links = [each for each in stream.links if each["sequence"] > upto]
        stream.starts = [number for number in stream.starts if number > upto]

    def forget(self, before: int) -> None:
        """Note that the books begin at that time."""
        self.forgotten = max(self.forgotten, before)
        self._save_books()

    def add_odd(self, message: Any, reason: str) -> None:
        """Keep an odd message; if there are too many, the oldest one goes."""
        number = self.odd_numbers[-1] + 1 if self.odd_numbers else 1
        self._state[_name("odd", number)] = [message, reason]
        self.odd_numbers.append(number)
        while len(self.odd_numbers) > MOST_ODD:
            del self._state[_name("odd", self.odd_numbers.pop(0))]

    def odd(self) -> list[tuple[Any, str]]:
        found = [self._state[_name("odd", number)] for number in self.odd_numbers]
        return [(message, reason) for message, reason in found]

    def clear_odd(self) -> None:
        while self.odd_numbers:
            del self._state[_name("odd", self.odd_numbers.pop())]

    def _save_books(self) -> None:
        kept = {"version": _VERSION, "forgotten": self.forgotten, "previous": dict(self.previous)}
        self._state[_name("books")] = kept

    def _end(self, stream: Stream) -> None:
        if stream.announced is not None:
            ledger, last, _ = stream.announced
            key = ledger, stream.place
            self.ends[key] = min(last, self.ends.get(key, last))

    def _load(self, stream: Stream, saved: Record) -> None:
        for name in _FIELDS:
            setattr(stream, name, saved[name])
        if stream.announced is not None:
            ledger, last, sequence = stream.announced
            stream.announced = ledger, last, sequence
            self._end(stream)
        stream.pages = [(sequence, after) for sequence, after in stream.pages]
        stream.links, stream.starts = list(stream.links), list(stream.starts)


def _name(*parts: Any) -> str:
    return json.dumps(parts, separators=(",", ":"))


def _parts(stream: Stream) -> tuple[str, str, str]:
    return stream.ledger, *stream.place
