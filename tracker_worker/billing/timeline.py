# SPDX-License-Identifier: Apache-2.0
"""What one node is charged for one instance, over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Place = tuple[str, str]
"""Host and node."""
Resources = Mapping[str, int]
"""Resource class -> amount."""


class Charge(NamedTuple):
    """What a project is charged for an instance, and the states in which it is charged."""

    project: str
    resources: Resources
    state: str
    claim_state: str


class Entry(NamedTuple):
    """From ``since`` on (seconds) ``charge`` is charged on ``place``, until the next entry; None: nothing."""

    since: int
    charge: Charge | None
    place: Place


class Timeline:
    """Takes what each event says, in the order of the events' numbers."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    @property
    def charge(self) -> Charge | None:
        """What is charged after the last event."""
        return self.entries[-1].charge if self.entries else None

    def say(self, at: int, charge: Charge | None, place: Place) -> None:
        """What an event says that is charged from its time on. One that says the same as the event before it changes nothing,
        also where the hand-over that began the charge lies ahead: the clocks of two ledgers differ."""
        if charge != self.charge:
            self.set(at, charge, place)

    def set(self, at: int, charge: Charge | None, place: Place) -> None:
        """What holds from ``at`` on, whatever was said of the time after it."""
        self.cut(at)
        if self.charge != charge or (charge is not None and self.entries[-1].place != place):
            self.entries.append(Entry(at, charge, place))

    def cut(self, at: int) -> None:
        """Take back what was said of ``at`` and of the time after it: what held before goes on."""
        while self.entries and self.entries[-1].since >= at:
            self.entries.pop()

    def holds(self, since: int, charge: Charge) -> bool:
        """Whether exactly this has been charged from ``since`` on."""
        for entry in reversed(self.entries):
            if entry.charge != charge:
                return False
            if entry.since <= since:
                return True
        return False

    def rename(self, at: int, place: Place) -> None:
        """The node has another name from ``at`` on."""
        if self.charge is not None:
            self.set(max(at, self.entries[-1].since), self.charge, place)

    def end(self, at: int) -> None:
        """Nothing is charged from ``at`` on."""
        if self.entries:
            self.set(at, None, self.entries[-1].place)

    def within(self, begin: int, end: int) -> Iterator[tuple[int, int, Charge, Place]]:
        """(from, to, charge, place) of everything that is charged between two times."""
        for index, entry in enumerate(self.entries):
            since = max(begin, entry.since)
            until = min(end, self.entries[index + 1].since) if index + 1 < len(self.entries) else end
            if entry.charge is not None and since < until:
                yield since, until, entry.charge, entry.place

    def forget(self, before: int) -> None:
        """Drop what ended before that time."""
        while len(self.entries) > 1 and self.entries[1].since <= before:
            del self.entries[0]
        if self.entries and self.entries[0].charge is None:
            del self.entries[0]

    def dump(self) -> list[list[Any]]:
        """The entries as JSON values."""
        return [[at, None if charge is None else list(charge), list(place)] for at, charge, place in self.entries]


def load(entries: Sequence[Sequence[Any]]) -> list[Entry]:
    """The entries that ``Timeline.dump`` has returned."""
    return [
        Entry(since, None if charge is None else Charge(*charge), (place[0], place[1]))
        for since, charge, place in entries
    ]
