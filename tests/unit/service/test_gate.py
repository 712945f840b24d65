# SPDX-License-Identifier: Apache-2.0
"""What waits at the gate is passed on without a wait, and nothing is decided under its lock."""

from __future__ import annotations

from collections.abc import Sequence

from tracker_worker.bus.base import Delivery
from tracker_worker.service.chores.gate import Gate


def delivery_from(source: str) -> Delivery:
    return Delivery(body=b"", source=source, content_type=None)


def test_what_has_waited_comes_first_and_is_not_decided_under_the_lock() -> None:
    passed: list[tuple[str, list[str]]] = []

    def received(deliveries: Sequence[Delivery]) -> None:
        assert not gate._lock.locked()
        passed.append(("received", [each.source for each in deliveries]))

    def waited(deliveries: Sequence[Delivery]) -> None:
        passed.append(("waited", [each.source for each in deliveries]))

    gate = Gate(received, waited)
    gate.opened()
    gate.admit("a", gate.connection)
    assert gate.received([delivery_from("b"), delivery_from("a")])
    gate.admit("b", gate.connection)
    assert not gate.received([delivery_from("b")])
    assert passed == [("received", ["a"]), ("waited", ["b"]), ("received", ["b"])]
