# SPDX-License-Identifier: Apache-2.0
"""What must hold after every step.

A notification and a commit are checked when they happen, which costs little; everything that is stored is checked from time to
time.
"""

from __future__ import annotations

import msgspec

from tests.invariants.record import Heard
from tests.simulation.broker import Message
from tracker_worker.notifications.schema import validator
from tracker_worker.store.base import Commit, Store

_ONE_IN = 8

Stream = tuple[str, str, str, str]
"""The queue, the ledger_id, the host and the node of a notification."""


class Violation(AssertionError):
    """Something that must never happen has happened."""


class Watch:
    """``notifications``: what billing has received, in order. ``heard`` gets each notification as it arrives in a queue,
    ``committed`` each commit as the store takes it."""

    def __init__(self) -> None:
        self.notifications: list[Heard] = []
        self._last: dict[Stream, int] = {}
        self._at: dict[Stream, str] = {}
        self._numbers: dict[tuple[str, str, str, int], str] = {}
        self._ids: dict[str, tuple[str, str, str, int]] = {}

    def heard(self, queue: str, message: Message) -> None:
        one = _heard(queue, message)
        self.notifications.append(one)
        payload, message_id = one.payload, one.message_id
        if (
            len(self.notifications) % _ONE_IN == 0
        ):  # the worker checks each kind once; a check takes longer than the rest
            validator(one.event_type)(payload)
        number = payload["ledger_id"], payload["host"], payload["node"], payload["sequence"]
        _demand(self._ids.setdefault(message_id, number) == number, f"the message id {message_id} is used twice")
        known = self._numbers.setdefault(number, message_id)
        _demand(known == message_id, f"the number {number} is used twice: {known}, {message_id}")
        stream = queue, *number[:3]
        last = self._last.get(stream, 0)
        if number[3] > last:
            _demand(payload["occurred_at"] >= self._at.get(stream, ""), f"the time of {number} falls")
            self._last[stream], self._at[stream] = number[3], payload["occurred_at"]

    def committed(self, commit: Commit) -> None:
        for ledger in commit.ledgers:
            charged = ledger.charged
            total = ledger.usage
            reserved = ledger.inventory.reserved if ledger.inventory is not None else None
            if reserved is not None:
                _demand(total == reserved + charged, f"{ledger.host}/{ledger.name}: usage {total} is not the sum")
        uuids: dict[tuple[int, str], str] = {}
        for ledger in commit.ledgers:
            for uuid in ledger.allocations:
                other = uuids.setdefault((ledger.host_id, uuid), ledger.name)
                _demand(other == ledger.name, f"{uuid} is charged to {other} and to {ledger.name}")


def _heard(queue: str, message: Message) -> Heard:
    said = msgspec.json.decode(msgspec.json.decode(message.body)["oslo.message"])
    return Heard(
        queue=queue,
        message_id=said["message_id"],
        event_type=said["event_type"],
        priority=said["priority"],
        publisher_id=said["publisher_id"],
        timestamp=said["timestamp"],
        payload=said["payload"],
    )


def stored(store: Store, *, went_back: bool = False) -> None:
    """Everything that is stored agrees with itself. ``went_back``: no new history has begun since, which lowers the cursors
    that are written until then. Raises Violation."""
    for name in store.host_names():
        host = store.load_host(name)
        assert host is not None
        seen: dict[str, str] = {}
        for ledger in host:
            _demand(ledger.drift is None, f"{name}/{ledger.name}: the stored usage {ledger.drift} is not the sum")
            for uuid in ledger.allocations:
                other = seen.setdefault(uuid, ledger.name)
                _demand(other == ledger.name, f"{uuid} is charged to {other} and to {ledger.name} of {name}")
        for stream in store.streams(name):
            for topic, cursor in stream.cursors.items():
                _demand(
                    cursor <= stream.sequence or went_back, f"the cursor of {name}/{stream.node} for {topic} is ahead"
                )


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)
