# SPDX-License-Identifier: Apache-2.0
"""What is left of notifications after histories that went back, and what is wrong with them."""

from __future__ import annotations

from typing import Any

from tests.invariants.histories import survivors
from tests.invariants.record import Heard

NEW = {"previous_ledger_id": "one", "previous_sequence": 3}


def heard(ledger_id: str, sequence: int, message_id: str = "", **more: Any) -> Heard:
    payload = {"host": "h1", "node": "n1", "ledger_id": ledger_id, "sequence": sequence, **more}
    return Heard(
        queue="notifications.info",
        message_id=message_id or f"{ledger_id}-{sequence}",
        event_type="tracker.node.updated",
        priority="INFO",
        publisher_id="tracker.h1",
        timestamp="",
        payload=payload,
    )


def left(story: list[Heard]) -> list[tuple[str, int]]:
    kept, violations = survivors(story)
    assert violations == []
    return [(one.payload["ledger_id"], one.sequence) for one in kept]


def test_what_is_beyond_the_previous_sequence_has_not_happened() -> None:
    story = [*(heard("one", number) for number in range(1, 7)), heard("two", 4, **NEW), heard("two", 5)]
    assert left(story) == [("one", 1), ("one", 2), ("one", 3), ("two", 4), ("two", 5)]


def test_a_later_history_may_take_back_what_an_earlier_one_kept() -> None:
    third = {"previous_ledger_id": "two", "previous_sequence": 2}
    story = [
        *(heard("one", number) for number in range(1, 7)),
        heard("two", 4, **NEW),
        heard("three", 3, **third),
    ]
    assert left(story) == [("one", 1), ("one", 2), ("three", 3)]


def test_a_number_that_a_ledger_has_used_twice_is_a_violation() -> None:
    _, violations = survivors([heard("one", 1, "m-1"), heard("one", 1, "m-1"), heard("one", 1, "m-2")])
    assert violations == ["Node h1/n1 has used 1 twice in the ledger one."]


def test_a_ledger_that_follows_none_is_a_violation() -> None:
    kept, violations = survivors([heard("one", 1), heard("two", 2)])
    assert (kept, violations) == ([], ["The ledgers of node h1/n1 are no chain."])
