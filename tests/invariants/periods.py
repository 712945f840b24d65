# SPDX-License-Identifier: Apache-2.0
"""The closed periods of a node: they follow one another, each is told whole, and they come to the bill of all other events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.invariants.record import Heard
from tests.invariants.stream import Streams
from tests.support.invoice import NodeBill, second

CLOSED = "tracker.period.closed"
EXISTS = "tracker.usage.exists"
_ELSEWHERE = ("next_host", "previous_host", "previous_ledger_id")


def check(told: Streams) -> Iterator[str]:
    """Of each name, unless a node has come to it or left it, or its ledger has begun anew."""
    for (host, node), story in sorted(told.items()):
        if not any(name in one.payload for one in story for name in _ELSEWHERE):
            yield from (f"Node {host}/{node}: {wrong}." for wrong in _check(story))


def _check(story: Sequence[Heard]) -> Iterator[str]:
    bill = NodeBill()
    late: set[str] = set()
    for one in story:
        try:
            bill.add(one.event_type, dict(one.payload))
        except AssertionError as error:
            yield f"{one.event_type} {one.sequence} is wrong: {error}"
            return
        if one.event_type == CLOSED:
            late = set()
        elif bill.periods and (at := one.payload.get("effective_at")) and second(at) < bill.periods[-1][1]:
            late.add(one.payload["instance_id"])  # an adjustment is still to be told
    if not bill.periods:
        return
    owed, told = bill.owed(), {key: amount for key, amount in bill.told.items() if amount}
    for key in sorted(owed.keys() | told.keys()):
        project, instance, name = key
        if instance not in late and owed.get(key, 0) != told.get(key, 0):
            yield (
                f"the closed periods come to {told.get(key, 0)} {name} seconds of instance {instance} for project "
                f"{project or '-'}, its events to {owed.get(key, 0)}"
            )
