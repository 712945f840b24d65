# SPDX-License-Identifier: Apache-2.0
"""A node's notifications are complete, without gaps and in order; copies are equal; the outbox has the same notifications."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tests.invariants.record import Evidence, Heard, Place, StoredNode

Streams = Mapping[Place, Sequence[Heard]]
"""Node -> its notifications by sequence, each once."""


def streams(evidence: Evidence) -> tuple[dict[Place, list[Heard]], list[str]]:
    """Return each node's notifications, and the violations in their transmission."""
    heard: dict[Place, list[Heard]] = defaultdict(list)
    for one in evidence.heard:
        heard[one.place].append(one)
    told: dict[Place, list[Heard]] = {}
    violations: list[str] = []
    for place in sorted(heard.keys() | evidence.nodes.keys()):
        first: dict[int, Heard] = {}
        for one in heard[place]:
            known = first.setdefault(one.sequence, one)
            violations += _copy(place, known, one)
        violations += _order(place, first)
        told[place] = [first[sequence] for sequence in sorted(first)]
        violations += _generations(place, told[place])
        violations += _times(place, told[place])
        books = evidence.nodes.get(place)
        if books is None:
            violations.append(f"{_name(place)} is in notifications but not in the store.")
        else:
            violations += _complete(place, first, books)
            violations += _outbox(place, first, books)
    violations += _ids(told)
    return told, violations


def others(evidence: Evidence) -> Iterator[str]:
    """Check the further topics: each has every notification of the outbox, in any order, with the same contents."""
    for topic, arrived in evidence.others.items():
        heard: dict[Place, dict[int, Heard]] = defaultdict(dict)
        for one in arrived:
            known = heard[one.place].setdefault(one.sequence, one)
            yield from (f"{topic}: {violation}" for violation in _copy(one.place, known, one))
        for place, books in evidence.nodes.items():
            first = heard[place]
            for violation in (*_complete(place, first, books), *_outbox(place, first, books)):
                yield f"{topic}: {violation}"


def _copy(place: Place, known: Heard, one: Heard) -> Iterator[str]:
    where = f"{_name(place)} sequence {one.sequence}"
    if one.message_id != known.message_id:
        yield f"{where} was sent with message_id {known.message_id} and again with {one.message_id}."
    elif replace(one, queue=known.queue) != known:
        yield f"{where} was sent twice with different contents."


def _order(place: Place, first: Mapping[int, Heard]) -> Iterator[str]:
    """Check the order within each queue, without copies. ``first`` is in order of arrival."""
    latest: dict[str, int] = {}
    for sequence, one in first.items():
        if sequence < latest.get(one.queue, 0):
            yield f"{_name(place)} sequence {sequence} first arrived after {latest[one.queue]} in {one.queue}."
        latest[one.queue] = max(sequence, latest.get(one.queue, 0))


def _generations(place: Place, story: Sequence[Heard]) -> Iterator[str]:
    for before, one in itertools.pairwise(story):
        if one.generation < before.generation:
            yield (
                f"{_name(place)} falls from generation {before.generation} at sequence {before.sequence} "
                f"to {one.generation} at {one.sequence}."
            )


def _times(place: Place, story: Sequence[Heard]) -> Iterator[str]:
    """Times are texts of one form, whose order is that of the times."""
    for before, one in itertools.pairwise(story):
        if one.payload["occurred_at"] < before.payload["occurred_at"]:
            yield (
                f"{_name(place)} goes back from {before.payload['occurred_at']} at sequence {before.sequence} "
                f"to {one.payload['occurred_at']} at {one.sequence}."
            )


def _complete(place: Place, first: Mapping[int, Heard], books: StoredNode) -> Iterator[str]:
    missing = sorted(set(range(1, books.sequence + 1)) - first.keys())
    if missing:
        yield f"{_name(place)} issued {books.sequence} notifications; {len(missing)} never arrived: {_some(missing)}."
    beyond = sorted(sequence for sequence in first if sequence > books.sequence)
    if beyond:
        yield f"{_name(place)} is at sequence {books.sequence} but was heard to say more: {_some(beyond)}."
    if first and (last := first[max(first)]).generation > books.generation:
        yield f"{_name(place)} is at generation {books.generation} but was heard at {last.generation}."
    if books.cursor != books.sequence:
        yield f"{_name(place)} has its relay's cursor at {books.cursor}, not at the last sequence {books.sequence}."


def _outbox(place: Place, first: Mapping[int, Heard], books: StoredNode) -> Iterator[str]:
    issued = {row.sequence: row for row in books.issued}
    lacking = sorted(set(range(1, books.sequence + 1)) - issued.keys())
    if lacking:
        yield f"{_name(place)} lacks rows in the outbox: {_some(lacking)}."
    for sequence, row in issued.items():
        one = first.get(sequence)
        if one is None:
            continue  # reported as missing
        kept = (row.message_id, row.event_type, row.priority, row.payload)
        if kept != (one.message_id, one.event_type, one.priority, one.payload):
            yield f"{_name(place)} sequence {sequence} was sent with other contents than the outbox holds."


def _ids(told: Streams) -> Iterator[str]:
    used: dict[str, str] = {}
    for place, story in told.items():
        for one in story:
            where = f"{_name(place)} sequence {one.sequence}"
            if (other := used.setdefault(one.message_id, where)) != where:
                yield f"message_id {one.message_id} stands for {other} and for {where}."


def _name(place: Place) -> str:
    return f"Node {place[0]}/{place[1]}"


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (" ..." if len(numbers) > 10 else "")
