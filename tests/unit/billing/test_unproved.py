# SPDX-License-Identifier: Apache-2.0
"""Where the first word of a history is lost, nothing proves what was before it: some of it may never have happened."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.billing.messages import LATER_LEDGER, LEDGER, PLACE, SMALL, at, charged, closed, exists, node
from tracker_worker.billing import Books
from tracker_worker.errors import NodeNotFound

OTHER = ("h1", "b")
CONTEXT = {"user_id": "billing"}
HISTORY = {"ledger": LATER_LEDGER, "previous_ledger_id": LEDGER}
TOLD = exists(4, 60, 0, 60, (10, 40, SMALL))
# Only the number 1 has happened: the backup is from the minute 5.
OLD = [node(1, 0), charged(2, 10, SMALL), charged(3, 40), TOLD, closed(5, 60, 0, 60, TOLD)]
ANNOUNCEMENT = node(2, 90, previous_sequence=1, **HISTORY)
OF_OTHER = [node(1, 0, place=OTHER), node(2, 90, place=OTHER, previous_sequence=1, **HISTORY)]
# In the later history the node was charged nothing, and its periods are closed again.
AGAIN = [closed(3, 91, 0, 60, ledger=LATER_LEDGER), closed(4, 121, 60, 120, ledger=LATER_LEDGER)]


class Worker:
    """Its outbox keeps nothing of ``PLACE``, up to the number ``last`` of the later history, and the node is empty."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.ledger = LATER_LEDGER

    def get_notifications(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"ledger_id": self.ledger, "first": self.last + 1, "last": self.last, "notifications": []}

    def get_instances(self, *_: Any, **__: Any) -> dict[str, Any]:
        page = {"ledger_id": self.ledger, "sequence": self.last, "audit_period_beginning": at(120)}
        return {**page, "instances": [], "next": None}


class Nobody(Worker):
    """It has no such name."""

    def get_notifications(self, *_: Any, **__: Any) -> dict[str, Any]:
        raise NodeNotFound(host=PLACE[0], node=PLACE[1])


def is_closed(books: Books, begin: float, end: float) -> bool:
    return PLACE not in books.closed(at(begin), at(end))


@pytest.mark.parametrize("reopens", [False, True])
def test_what_was_before_a_word_that_is_lost_is_not_closed_until_it_is_heard(reopens: bool) -> None:
    state: dict[str, Any] = {}
    books = Books(state)
    books.hear_all([*OLD, *OF_OTHER])
    assert books.catch_up(Worker(4), CONTEXT, [PLACE]) == {PLACE: [(1, 4)]}
    books = Books(state) if reopens else books
    assert books.missing() == {}
    assert books.differences(at(0), at(60)) == []
    assert not is_closed(books, 0, 60)
    books.hear_all([ANNOUNCEMENT, *AGAIN])
    assert is_closed(books, 0, 120)
    assert books.usage(at(0), at(60)) == {}


@pytest.mark.parametrize("forgets", [None, 0, 55])
def test_what_the_later_history_closes_is_closed_as_far_as_the_earlier_one_has_said_nothing_of_it(
    forgets: float | None,
) -> None:
    """Both may have told the usage of the same time."""
    books = Books({})
    books.hear_all([*OLD, *OF_OTHER, *AGAIN])
    assert books.missing() == {PLACE: [(1, 2)]}
    books.catch_up(Worker(2), CONTEXT, [PLACE])
    if forgets is not None:
        books.forget(at(forgets))
    assert books.missing() == {}
    assert not is_closed(books, 55, 60)
    assert is_closed(books, 60, 120)


def test_what_was_before_another_database_is_not_closed() -> None:
    """The word that it goes on the earlier one may be what is lost."""
    books = Books({})
    books.hear_all([*OLD, closed(6, 120, 60, 120), node(7, 130, id=0, state="unknown")])
    assert is_closed(books, 0, 120)
    books.hear_all([node(9, 150, ledger=LATER_LEDGER, place=OTHER)])
    assert not is_closed(books, 0, 60)
    assert not is_closed(books, 60, 120)
    assert is_closed(books, 150, 200)
    books.hear_all([node(8, 145, place=OTHER, previous_sequence=7, **HISTORY)])
    books.hear_all([node(8, 145, previous_sequence=7, id=0, state="unknown", **HISTORY)])
    assert is_closed(books, 0, 120)


def test_an_empty_node_of_another_database_ends_what_the_earlier_one_charges() -> None:
    """The time is that of its open period: an empty node has told none."""
    books = Books({})
    books.hear_all(OLD[:2])
    assert books.catch_up(Worker(4), CONTEXT, [PLACE]) == {PLACE: [(1, 4)]}
    assert books.usage(at(0), at(240))["p"]["seconds"] == 110 * 60
    assert not is_closed(books, 0, 60)


def test_a_name_that_has_not_told_the_present_history_is_closed_when_a_worker_has_no_such_name() -> None:
    books = Books({})
    books.hear_all([*OLD, *OF_OTHER])
    assert books.missing() == {PLACE: [(6, 6)]}
    assert not is_closed(books, 0, 60)
    books.catch_up(Nobody(0), CONTEXT, [PLACE])
    assert books.missing() == {}
    assert is_closed(books, 0, 60)


class TestTwoHistoriesOfWhichTheSecondIsNotAnnounced:
    """The name has told neither of the two, and another name the first one."""

    THIRD = "019bc0de-0000-7000-8000-000000000003"
    HEARD = (*OLD, *OF_OTHER, node(9, 200, ledger=THIRD))

    def test_nothing_is_missing_of_the_first_one_for_ever(self) -> None:
        books = Books({})
        books.hear_all(self.HEARD[:-1])
        assert books.missing() == {PLACE: [(6, 6)]}
        books.hear(self.HEARD[-1])
        assert books.missing() == {PLACE: [(1, 8)]}
        worker = Worker(9)
        worker.ledger = self.THIRD
        books.catch_up(worker, CONTEXT, [PLACE])
        assert books.missing() == {}
        # What was before is not proved, and does not count.
        assert (is_closed(books, 0, 60), is_closed(books, 199, 200), is_closed(books, 200, 210)) == (
            False,
            False,
            False,
        )
        books.hear(closed(10, 240, 180, 240, ledger=self.THIRD))
        assert (is_closed(books, 199, 240), is_closed(books, 200, 240)) == (False, True)

    def test_what_is_in_doubt_is_forgotten_with_its_time(self) -> None:
        state: dict[str, Any] = {}
        books = Books(state)
        books.hear_all(self.HEARD)
        books.forget(at(199))
        assert any(LEDGER in name for name in state)
        books.forget(at(200))
        assert not any(LEDGER in name and PLACE[1] in json.loads(name) for name in state)

    def test_a_history_that_goes_on_the_first_one_later_is_still_to_be_told(self) -> None:
        """A database was replaced for a while, and came back."""
        books = Books({})
        books.hear_all([*OLD, node(1, 80, ledger=self.THIRD), *OF_OTHER])
        assert books.missing() == {PLACE: [(6, 6)]}
