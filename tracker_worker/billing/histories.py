# SPDX-License-Identifier: Apache-2.0
"""Which streams go on one another, and which numbers of them count.

A database that went back goes on with a new ledger_id. For each name, host and node, the first event of the new history says up
to which number the events of the one before count. A name that is known of a history that has ended, and that does not tell the
new one, was made in what is lost. A ledger_id that nothing announces is another database: a host is served from one at a time,
so that the earlier one's charges on the host end where the later one begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tracker_worker.billing.streams import Key, Stream, Streams
from tracker_worker.billing.timeline import Place

Range = tuple[int, int]


class Position(NamedTuple):
    """A number in one of the streams of a track, by their order."""

    part: int
    sequence: int


class Part(NamedTuple):
    """A stream, and the last of its numbers that counts; None: all count."""

    stream: Stream
    end: int | None


class Plan(NamedTuple):
    """The streams of one name that go on one another, oldest first. ``void``: earlier ones, nothing of which counts.
    ``begins``, ``cut``: when the database began to serve the host after another one, and when another one began to. ``untold``:
    the name has not told the present history; what was heard of it does not count, and ``cut`` is when a later history began
    that the name has told, and that does not lead back to it. ``unfounded``: a node has come to the name, and what it had been
    charged is not known."""

    place: Place
    parts: tuple[Part, ...]
    void: tuple[Stream, ...] = ()
    begins: int | None = None
    cut: int | None = None
    untold: bool = False
    unfounded: Position | None = None

    @property
    def key(self) -> Key:
        """The stream of the present history."""
        return self.parts[-1].stream.key

    def is_doubtful(self, begin: int) -> bool:
        """Whether it is not known if what the name has told of the time from ``begin`` on happened: the number at which it
        would tell the present history is missing, or lost for good."""
        return self.untold and not self.parts[-1].stream.gone and (self.cut is None or begin < self.cut)

    def gaps(self, upto: Position | None = None) -> list[tuple[Position, int]]:
        """The ranges of numbers that are needed and not known, in all or up to a position: where each begins, and its last
        number."""
        found: list[tuple[Position, int]] = []
        lacking = self.unfounded if upto is None or (self.unfounded is not None and self.unfounded <= upto) else None
        top = len(self.parts) - 1 if upto is None else upto.part
        for index in range(top, -1, -1):
            stream, end = self.parts[index]
            limit = end if upto is None or index < top else upto.sequence
            ranges = stream.numbers.gaps(stream.base(limit), stream.numbers.highest if limit is None else limit)
            start = stream.start(limit)
            if lacking is not None and lacking.part == index and (start is None or start < lacking.sequence):
                ranges = sorted([*ranges, (lacking.sequence, lacking.sequence)])
            found[:0] = [(Position(index, first), until) for first, until in ranges]
            if start is not None:
                break
        return found

    def missing(self) -> list[Range]:
        """The same as (first, last). Of a name that has not told the present history, the number at which it would."""
        head = self.parts[-1].stream
        if self.cut is not None or (self.untold and head.gone):
            return []
        if self.untold:
            next_number = max(head.base(), head.numbers.highest) + 1
            return [(next_number, next_number)]
        return [(position.sequence, last) for position, last in self.gaps()]


class Link(NamedTuple):
    """A node has got another name. Each of the two names tells it; None: that event is not known."""

    generation: int
    at: int
    ledger: str
    source: Place
    target: Place
    source_sequence: int | None
    target_sequence: int | None


class _Arrival(NamedTuple):
    """A node has come from one name to another one, by the event at a position of a plan of that."""

    generation: int
    ledger: str
    source: Place
    target: Place
    number: int
    position: Position


_LinkKey = tuple[str, Place, Place, int]


class Histories:
    """The histories of all streams as they are now. Valid until one of them changes."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._ended = set(streams.previous.values())
        self._plans: dict[Place, list[Plan]] = {}

    def before(self, ledger: str) -> list[str]:
        """The histories before one, the latest first."""
        found: list[str] = []
        while ledger in self._streams.previous:
            ledger = self._streams.previous[ledger]
            found.append(ledger)
        return found

    def related(self, one: str, other: str) -> bool:
        """Whether one goes on the other."""
        return one == other or one in self.before(other) or other in self.before(one)

    def plans(self) -> list[Plan]:
        """The tracks of all names; of one name the latest first."""
        return [plan for place in self._streams.of_place for plan in self.of(place)]

    def of(self, place: Place) -> list[Plan]:
        """The tracks of one name; the latest first."""
        if place not in self._plans:
            # With those of the names from which its nodes have come, whose nodes may have come from others.
            waiting = [place]
            arrivals: list[_Arrival] = []
            for each in waiting:
                if each not in self._plans:
                    self._plans[each] = self._of(each)
                    of_name = list(self._arrivals(each))
                    waiting += [arrival.source for arrival in of_name]
                    arrivals += of_name
            for arrival in sorted(arrivals):
                self._find(arrival)
        return self._plans[place]

    def _of(self, place: Place) -> list[Plan]:
        streams = self._streams.of_place.get(place, {})
        gone_on = {ledger for other in streams for ledger in self.before(other)}
        heads = sorted((name for name in streams if name not in gone_on), key=lambda name: self._key(place, name))
        taken: set[str] = set()
        plans = []
        for head in reversed(heads):
            chain = [streams[name] for name in (head, *self.before(head)) if name in streams and name not in taken]
            taken.update(stream.ledger for stream in chain)
            first = next((index for index, stream in enumerate(chain, 1) if stream.begins_here), len(chain))
            untold = head in self._ended
            cut, begins = (self._replaced(place, head, heads), None) if untold else self._served(place, head)
            plans.append(Plan(place, _parts(chain[:first]), tuple(chain[first:]), begins, cut, untold))
        return plans

    def _key(self, place: Place, ledger: str) -> tuple[int, str]:
        return self._streams.began[place[0]].get(ledger, -1), ledger

    def _served(self, place: Place, head: str) -> tuple[int | None, int | None]:
        """Since when another database has served the host; and since when this one does, after another one."""
        since = self._key(place, head)
        began = self._streams.began[place[0]]
        others = [(at, other) for other, at in began.items() if not self.related(head, other)]
        later = min((other for other in others if other > since), default=None)
        return None if later is None else later[0], since[0] if any(other < since for other in others) else None

    def _replaced(self, place: Place, untold: str, heads: Iterable[str]) -> int | None:
        """When a history began that the name has told, and that is later than those that go on the untold one."""
        began = self._streams.began[place[0]]
        followers = (self._key(place, other) for other in began if untold in self.before(other))
        since = max(followers, default=self._key(place, untold))
        told = [self._key(place, head) for head in heads if head not in self._ended]
        return min((at for at, ledger in told if (at, ledger) > since), default=None)

    def _arrivals(self, place: Place) -> Iterator[_Arrival]:
        for number, plan in enumerate(self._plans[place]):
            for index, (stream, end) in enumerate(() if plan.untold else plan.parts):
                for link in stream.links:
                    if "from" in link and (end is None or link["sequence"] <= end):
                        host, node = link["from"]
                        position = Position(index, link["sequence"])
                        yield _Arrival(link["generation"], stream.ledger, (host, node), place, number, position)

    def _find(self, arrival: _Arrival) -> None:
        """Note it where it is not known what a node had been charged that has come to a name."""
        if not self._is_founded(arrival):
            plans = self._plans[arrival.target]
            plan = plans[arrival.number]
            last = arrival.position if plan.unfounded is None else max(plan.unfounded, arrival.position)
            plans[arrival.number] = plan._replace(unfounded=last)

    def _is_founded(self, arrival: _Arrival) -> bool:
        to = list(arrival.target)
        for plan in self._plans[arrival.source]:
            for index, (stream, _) in enumerate(() if plan.untold else plan.parts):
                for link in stream.links if stream.ledger == arrival.ledger else ():
                    if link.get("to") == to and link["generation"] == arrival.generation:
                        return not plan.gaps(Position(index, link["sequence"] - 1))
        return False

    def links(self, plans: Iterable[Plan]) -> list[Link]:
        """The new names of nodes in these tracks, in an order in which they can have happened."""
        found: dict[_LinkKey, dict[str, Any]] = {}
        sure: set[_LinkKey] = set()
        void: set[_LinkKey] = set()
        for plan in plans:
            for index, (stream, end) in enumerate(() if plan.untold else plan.parts):
                for each in stream.links:
                    key = _link_key(stream, each)
                    link = found.setdefault(key, {"at": each["at"]})
                    link["to" if "to" in each else "from"] = each["sequence"]
                    if "to" in each:
                        link["at"] = each["at"]
                    if end is not None and each["sequence"] > end:
                        void.add(key)
                    elif end is not None or index == len(plan.parts) - 1:
                        sure.add(key)
        links = [
            Link(generation, link["at"], ledger, source, target, link.get("to"), link.get("from"))
            for (ledger, source, target, generation), link in found.items()
            if (ledger, source, target, generation) not in void
            # Where a history has ended, and its last number that counts is not known, one name alone proves nothing.
            and ((ledger, source, target, generation) in sure or {"to", "from"} <= link.keys())
        ]
        return sorted(links, key=lambda link: (link.generation, link.at, link.source, link.target))


def _parts(chain: Iterable[Stream]) -> tuple[Part, ...]:
    """The streams of a chain, which is given from its latest ledger on; oldest first."""
    parts: list[Part] = []
    end: int | None = None
    for stream in chain:
        parts.insert(0, Part(stream, end))
        if stream.announced is not None:
            last = stream.announced[1]
            end = last if end is None else min(end, last)
    return tuple(parts)


def _link_key(stream: Stream, link: dict[str, Any]) -> _LinkKey:
    host, node = link["to"] if "to" in link else link["from"]
    places = (stream.place, (host, node)) if "to" in link else ((host, node), stream.place)
    return stream.ledger, *places, link["generation"]
