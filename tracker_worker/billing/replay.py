# SPDX-License-Identifier: Apache-2.0
"""From records to what each node was charged: the events of each track are said once more, in the order of their numbers.

Each event says what a project is charged from its time on, so that events behind a gap are right as they are; and what lies
between is known again when the gap is filled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from tracker_worker.billing import proof, timeline
from tracker_worker.billing.histories import Link, Plan, Position
from tracker_worker.billing.journal import Journal
from tracker_worker.billing.reading import Record
from tracker_worker.billing.streams import Key, Stream
from tracker_worker.billing.timeline import Charge, Place, Timeline

Page = tuple[int, str]


class Step(NamedTuple):
    """An event, or, without a record, what pages say after the event of that number, whether that is known or not.
    ``generation``: of the event, or of the next one of the stream; None: there is none."""

    position: Position
    generation: int | None
    record: Record | None
    pages: Sequence[Page] = ()


class Node:
    """A node, through all of its names, the last of which is ``place``: what it was charged, by the uuid of the instance.
    ``known``: something was heard of it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.known = False
        self.charges: defaultdict[str, Timeline] = defaultdict(Timeline)
        self.proof = proof.Proof()

    def rename(self, at: int, place: Place) -> None:
        self.place = place
        for each in self.charges.values():
            each.rename(at, place)

    def is_closed(self, begin: int, end: int) -> bool:
        """Whether this time is closed, or nothing is charged in what is not, and no period will ever close it."""
        closed = self.proof.closed_from(begin)
        if closed is None or closed >= end:
            return closed is not None
        charged = any(True for line in self.charges.values() for _ in line.within(closed, end))
        return self.proof.is_over(closed) and not charged

    def end(self, at: int) -> None:
        """The node is no more."""
        for each in self.charges.values():
            each.end(at)
        charged_until = [each.entries[-1].since for each in self.charges.values() if each.entries]
        self.proof.ended(at, max(charged_until, default=0))


class Track:
    """The node of a name, as the events of a plan make it. ``end``: the track goes up to the event before this one."""

    def __init__(self, plan: Plan, journal: Journal, end: Position | None = None) -> None:
        self.place = plan.place
        self.plan = plan
        self.node = Node(plan.place)
        self.ended: list[Node] = []
        self.reached: Position | None = None
        self._journal = journal
        self._end = end
        gaps = plan.gaps()
        self._first_gap = gaps[0][0] if gaps else None
        self._steps = self._each()
        self._next = next(self._steps, None)
        # Whether the next event, if it follows the last one, is the first one of its node.
        self._fresh = True
        self._at = 0
        self._latest = 0
        self._resumed = 0
        self._part = 0

    def _each(self) -> Iterator[Step]:
        for index, (stream, last) in enumerate(self.plan.parts):
            pages = [page for page in stream.pages if last is None or page[0] <= last]
            for sequence in stream.numbers.upto(last):
                position = Position(index, sequence)
                if self._end is not None and position >= self._end:
                    return
                record = self._journal.record(stream, sequence)
                due = [page for page in pages if page[0] < sequence]
                pages = pages[len(due) :]
                yield from _of_pages(index, due, record["generation"])
                yield Step(position, record["generation"], record)
            yield from _of_pages(index, pages, None)

    def advance(self, stops: Callable[[Step], bool] = lambda _: False) -> None:
        """Say the events up to the first step at which ``stops``."""
        while self._next is not None and not stops(self._next):
            step, self._next = self._next, next(self._steps, None)
            self._enter(step.position.part)
            if step.record is None:
                self._say_pages(step)
            else:
                self._say(step.position, step.record)

    def leave(self, link: Link) -> Node:
        """Say everything before the node gets its next name, and return the node. What follows is about another node."""
        own = self._own(link, link.source_sequence)
        self.advance(lambda step: self._is_after(step, own, link.generation) or _is_page_of(step, own))
        left, self.node = self.node, Node(self.place)
        self._fresh = True
        return left

    def receive(self, link: Link, node: Node) -> None:
        """Say everything before a node comes to this name. The node that had it until then is no more."""
        own = self._own(link, link.target_sequence)
        self.advance(lambda step: self._is_after(step, own, link.generation - 1) or step.position == own)
        self.end(link.at)
        self.node = node
        node.rename(link.at, self.place)
        self._fresh = False

    def end(self, at: int) -> None:
        """The node is no more; the next event is about another one."""
        if self.node.known:
            self.node.end(at)
            self.ended.append(self.node)
        self.node, self._fresh = Node(self.place), True

    def void(self, before: int) -> None:
        """Nothing proves what the nodes were charged before that time."""
        for node in (*self.ended, self.node):
            node.proof.void(before)

    def _enter(self, part: int) -> None:
        """What follows is of that history. If nothing tells up to which number the one before it counts, some of it may never
        have happened."""
        between = self.plan.parts[self._part + 1 : part + 1]
        self._part = part
        if any(stream.announced is None for stream, _ in between):
            self.void(self._latest)

    def _own(self, link: Link, sequence: int | None) -> Position | None:
        """Where the event of a link is in this track; None: it is not known."""
        parts = (index for index, part in enumerate(self.plan.parts) if part.stream.ledger == link.ledger)
        return None if sequence is None else Position(next(parts), sequence)

    def _is_after(self, step: Step, own: Position | None, generation: int) -> bool:
        """Whether a step comes after an event; if that is not known, whether after everything of a generation."""
        if own is not None:
            return step.position > own
        if step.generation is None:
            return step.position.part == len(self.plan.parts) - 1
        return step.generation > generation

    def _say(self, position: Position, record: Record) -> None:
        stream = self.plan.parts[position.part].stream
        at: int = record["at"]
        follows = self._follows(position, stream)
        if not follows:
            self._resumed = at
        born = follows and self._fresh
        self.reached, self._at = position, at
        self._latest = max(at, self._latest)
        if record["kind"] == "node" and record["state"] is None:
            self.end(at)
            return
        if born:
            self.node.proof.born(at)
        elif not follows:
            self.node.proof.broken()
        self.node.known, self._fresh = True, False
        match record["kind"]:
            case "charge":
                self._charge(record)
            case "node":
                self.node.proof.state(record["state"], at)
            case "exists":
                self.node.proof.exists(record)
            case "closed":
                complete = self._first_gap is None or position < self._first_gap
                self.node.proof.closed(record, complete=complete)
            case _:
                pass

    def _charge(self, record: Record) -> None:
        charge = None if record["charge"] is None else Charge(*record["charge"])
        line = self.node.charges[record["uuid"]]
        if record["effective"] is None:
            line.say(record["at"], charge, self.place)
        else:
            line.set(record["effective"], charge, self.place)

    def _follows(self, position: Position, stream: Stream) -> bool:
        """Whether no number between this event and the one before it is unknown."""
        before = self.reached
        if before is None:
            return position.sequence == 1
        if before.part == position.part:
            return position.sequence == before.sequence + 1
        last = self.plan.parts[before.part]
        told = stream.announced
        return (
            told is not None
            and before.part == position.part - 1
            and (last.stream.ledger, before.sequence, position.sequence) == told
        )

    def _say_pages(self, step: Step) -> None:
        position = step.position
        stream = self.plan.parts[position.part].stream
        for sequence, after in step.pages:
            page = self._journal.page(stream, sequence, after)
            self._say_page(page, after, known=self.reached == position)
            self.node.known = True
            if page["nobody"]:
                self.end(self._resumed or self._at)
        if position.sequence == stream.forgotten:
            self.reached = position
            self.node.known, self._fresh = stream.proof is not None, stream.proof is None
            if stream.proof is not None:
                self.node.proof = proof.load(stream.proof)

    def _say_page(self, page: Record, after: str, *, known: bool) -> None:
        """What a node is charged as of a number. An instance whose end is not known has ended, at the latest when the events
        are known again."""
        at = self._resumed or self._at
        if not known and page["at"] is not None:
            at = max(page["at"], self._at)
        for uuid, line in self.node.charges.items():
            in_range = uuid > after and (page["to"] is None or uuid <= page["to"])
            if in_range and uuid not in page["instances"] and line.charge is not None:
                line.say(at, None, self.place)
        for uuid, dumped in page["instances"].items():
            line = self.node.charges[uuid]
            for since, charge, place in timeline.load(dumped):
                since = max(since, self.plan.begins or 0)  # before that another database has told what was charged
                if charge is None or not line.holds(since, charge):
                    line.set(since, charge, place)


def _of_pages(part: int, pages: Sequence[Page], generation: int | None) -> Iterator[Step]:
    for sequence, of_number in groupby(pages, key=lambda page: page[0]):
        yield Step(Position(part, sequence), generation, None, tuple(of_number))


def _is_page_of(step: Step, own: Position | None) -> bool:
    """Whether a step is pages that say what holds after an event."""
    return step.record is None and step.position == own


def replay(
    plans: Sequence[Plan], links: Sequence[Link], journal: Journal, ends: Mapping[Key, Position] | None = None
) -> tuple[list[Track], list[Node]]:
    """Say all events of the plans. Return their tracks, whose ``node`` has the name now, and all nodes.

    ``ends``: say the events before these ones, by the key of the plan.
    """
    every = [Track(plan, journal, None if ends is None else ends.get(plan.key)) for plan in plans]
    tracks = {part.stream.key: track for track in every for part in track.plan.parts}
    for link in links:
        source, target = ((link.ledger, place) for place in (link.source, link.target))
        for key in (source, target):
            if key not in tracks:
                tracks[key] = Track(Plan(key[1], ()), journal)
                every.append(tracks[key])
        tracks[target].receive(link, tracks[source].leave(link))
    nodes = []
    for track in every:
        track.advance()
        if track.plan.cut is not None and ends is None:
            track.end(track.plan.cut)
            track.void(track.plan.cut)  # the later database may go on this one, and its announcement be lost
        nodes += [*track.ended, track.node] if track.node.known else track.ended
    return every, nodes
