# SPDX-License-Identifier: Apache-2.0
"""What lies before a time is put together: one entry for each instance that is charged, in place of the events before it."""

from __future__ import annotations

from collections.abc import Sequence

from tracker_worker.billing.histories import Histories, Link, Plan, Position
from tracker_worker.billing.journal import Journal
from tracker_worker.billing.replay import Track, replay
from tracker_worker.billing.streams import Key

_PAGE = 500
"""So many instances are one value in the state."""


def forget(journal: Journal, before: int) -> None:
    """Put together the events before that time (seconds), as far as no number before them is missing."""
    histories = Histories(journal.streams)
    plans = histories.plans()
    counted = [plan for plan in plans if not plan.untold]
    ends = {plan.key: _end(plan, journal, before) for plan in counted}
    links = _within(histories.links(counted), counted, ends)
    tracks, _ = replay(counted, links, journal, ends)
    for track in tracks:
        if track.plan.parts:
            _put_together(track, journal, before)
    for plan in plans:
        for stream in plan.void:
            journal.drop(stream)
        if plan.untold and not plan.is_doubtful(before):
            for stream, _ in plan.parts:
                journal.drop(stream)
    journal.forget(before)


def _end(plan: Plan, journal: Journal, before: int) -> Position:
    """The first number that is not put together: its event is not before that time, or it is missing."""
    gaps = plan.gaps()
    first_gap = gaps[0][0] if gaps else None
    position = Position(0, 0)
    for index, (stream, last) in enumerate(plan.parts):
        for sequence in stream.numbers.upto(last):
            position = Position(index, sequence)
            if first_gap is not None and first_gap < position:
                return first_gap
            if journal.record(stream, sequence)["at"] >= before:
                return position
    return Position(position.part, position.sequence + 1)


def _within(links: Sequence[Link], plans: Sequence[Plan], ends: dict[Key, Position]) -> list[Link]:
    """The links of which both sides are put together. ``ends`` are changed so that no side is without the other."""
    of = {part.stream.key: (plan, index) for plan in plans for index, part in enumerate(plan.parts)}
    left = list(links)
    changed = True
    while changed:
        changed = False
        for link in list(left):
            sides = [(link.source, link.source_sequence), (link.target, link.target_sequence)]
            known = [(*of[link.ledger, place], sequence) for place, sequence in sides if (link.ledger, place) in of]
            if len(known) == 2 and all(_reaches(plan, index, sequence, ends) for plan, index, sequence in known):
                continue
            left.remove(link)
            changed = True
            for plan, index, sequence in known:
                if sequence is not None:
                    ends[plan.key] = min(ends[plan.key], Position(index, sequence))
    return left


def _reaches(plan: Plan, index: int, sequence: int | None, ends: dict[Key, Position]) -> bool:
    """Whether the event of a link is put together; where it is not known, whether it is not missing either, and there is an
    event after which the link can be kept."""
    if sequence is not None:
        return Position(index, sequence) < ends[plan.key]
    known = (
        Position(part, number) for part, (stream, last) in enumerate(plan.parts) for number in stream.numbers.upto(last)
    )
    first = next(known, None)
    return not plan.gaps() and first is not None and first < ends[plan.key]


def _put_together(track: Track, journal: Journal, before: int) -> None:
    reached = track.reached
    if reached is None:
        return
    plan = track.plan
    stream = plan.parts[reached.part].stream
    at = max(0, before - 1)
    for line in track.node.charges.values():
        line.forget(before)
    instances = {uuid: line.dump() for uuid, line in sorted(track.node.charges.items()) if line.entries}
    for older in plan.parts[: reached.part]:
        journal.drop(older.stream)
    over = reached.part == len(plan.parts) - 1 and reached.sequence >= stream.numbers.highest
    if plan.cut is not None and plan.cut <= before and over:
        journal.drop(stream)
        return
    journal.drop(stream, reached.sequence)
    uuids = list(instances)
    after = ""
    for first in range(0, max(len(uuids), 1), _PAGE):
        of_page = uuids[first : first + _PAGE]
        last = first + _PAGE >= len(uuids)
        of_uuids = {uuid: instances[uuid] for uuid in of_page}
        page = {"at": at, "to": None if last else of_page[-1], "instances": of_uuids, "nobody": False}
        journal.add_page(stream, reached.sequence, after, page)
        after = of_page[-1] if of_page else after
    stream.forgotten = reached.sequence
    stream.proof = track.node.proof.dump() if track.node.known else None
    stream.add_start(reached.sequence)
    journal.save(stream)
