# SPDX-License-Identifier: Apache-2.0
"""What must hold after every step.

A notification and a commit are checked when they happen, which costs little; everything that is stored is checked from time to
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from tests.invariants.record import Heard
from tests.simulation import moving
from tests.simulation.broker import Message
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.notifications.schema import validator
from tracker_worker.store.base import Commit

# The worker checks each kind of payload once. A check takes longer than everything else here.
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
        self._generations: dict[tuple[str, str], int] = {}

    def heard(self, queue: str, message: Message) -> None:
        one = read_notification(queue, message.body)
        self.notifications.append(one)
        payload, message_id = one.payload, one.message_id
        if len(self.notifications) % _ONE_IN == 0:
            validator(one.event_type)(payload)
        number = payload["ledger_id"], payload["host"], payload["node"], payload["sequence"]
        if self._ids.setdefault(message_id, number) != number:
            raise Violation(f"the message id {message_id} is used twice")
        if (known := self._numbers.setdefault(number, message_id)) != message_id:
            raise Violation(f"the number {number} is used twice: {known}, {message_id}")
        stream = queue, *number[:3]
        if number[3] > self._last.get(stream, 0):
            if payload["occurred_at"] < self._at.get(stream, ""):
                raise Violation(f"the time of {number} falls")
            self._last[stream], self._at[stream] = number[3], payload["occurred_at"]

    def went_back(self) -> None:
        """The database is as it was before."""
        self._generations.clear()

    def committed(self, commit: Commit) -> None:
        for ledger in commit.ledgers:
            name = ledger.host, ledger.name
            if ledger.generation < self._generations.get(name, 0):
                raise Violation(f"the generation of {ledger.host}/{ledger.name} falls to {ledger.generation}")
            self._generations[name] = ledger.generation
            if ledger.inventory is not None and ledger.usage != ledger.inventory.reserved + ledger.charged:
                raise Violation(f"{ledger.host}/{ledger.name}: usage {ledger.usage} is not the sum")
        if len(commit.ledgers) > 1:
            _charged_once(commit.ledgers)


def read_notification(queue: str, body: bytes) -> Heard:
    said = msgspec.json.decode(msgspec.json.decode(body)["oslo.message"])
    return Heard(
        queue=queue,
        message_id=said["message_id"],
        event_type=said["event_type"],
        priority=said["priority"],
        publisher_id=said["publisher_id"],
        timestamp=said["timestamp"],
        payload=said["payload"],
    )


def stored(hosts: Sequence[HostLedger], cursors_ahead: Sequence[str]) -> None:
    """Everything that is stored agrees with itself: the ledgers of the hosts, and the cursors, of which those are given that
    are ahead of their streams. Raises Violation."""
    for host in hosts:
        for ledger in host:
            if ledger.drift is not None:
                raise Violation(f"{host.name}/{ledger.name}: the stored usage {ledger.drift} is not the sum")
        _charged_once(host)
        for found in moving.of_one_host(host):
            raise Violation(found)
    for found in moving.of_all(hosts):
        raise Violation(found)
    if cursors_ahead:
        raise Violation(f"cursors are ahead of their streams: {', '.join(cursors_ahead)}")


def _charged_once(ledgers: Iterable[NodeLedger]) -> None:
    """No instance is charged to two nodes of a host."""
    seen: dict[tuple[int, str], str] = {}
    for ledger in ledgers:
        for uuid in ledger.allocations:
            other = seen.setdefault((ledger.host_id, uuid), ledger.name)
            if other != ledger.name:
                raise Violation(f"{uuid} is charged to {other} and to {ledger.name} of {ledger.host}")
