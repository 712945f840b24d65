# SPDX-License-Identifier: Apache-2.0
"""An agenda gives its items in the order of their times, and keeps nothing of what was removed."""

from __future__ import annotations

import random

from tracker_worker.agenda import Agenda


def test_items_are_taken_when_they_are_due_and_in_the_order_of_their_times() -> None:
    agenda: Agenda[str] = Agenda()
    for due, item in ((3, "c"), (1, "a"), (2, "b"), (1, "a2")):
        agenda.add(due, item)
    assert (agenda.next_due(), agenda.take(0.5)) == (1, None)
    assert [agenda.take(2) for _ in range(4)] == ["a", "a2", "b", None]
    assert (len(agenda), agenda.next_due()) == (1, 3)


def test_what_is_removed_or_taken_may_be_removed_again() -> None:
    agenda: Agenda[str] = Agenda()
    first, second = agenda.add(1, "a"), agenda.add(2, "b")
    assert agenda.take(1) == "a"
    for entry in (first, second, second):
        agenda.remove(entry)
    assert (len(agenda), agenda.next_due(), agenda.take(9)) == (0, None, None)


def test_random_additions_and_removals_agree_with_a_sorted_list_and_bound_the_heap() -> None:
    drawn = random.Random(9)
    agenda: Agenda[int] = Agenda()
    entries: dict[int, object] = {}
    for number in range(20_000):
        act = drawn.random()
        if act < 0.5 or not entries:
            entries[number] = agenda.add(drawn.randrange(1000), number)
        elif act < 0.9:
            agenda.remove(entries.pop(drawn.choice(list(entries))))  # type: ignore[arg-type]
        else:
            first = min(entries, key=lambda one: (entries[one].due, one))  # type: ignore[attr-defined]
            assert agenda.take(1000) == first
            del entries[first]
        assert len(agenda) == len(entries)
        assert len(agenda._heap) <= 2 * len(entries) + 100
