# SPDX-License-Identifier: Apache-2.0
"""A time of a node is closed when its periods are, and everything that they say is known."""

from __future__ import annotations

import pytest

from tests.support.billing.messages import (
    LARGE,
    LATER_LEDGER,
    LEDGER,
    PLACE,
    SMALL,
    adjustment,
    at,
    charged,
    closed,
    exists,
    moved,
    node,
)
from tracker_worker.billing import Books

FIRST = exists(3, 60, 0, 60, (10, 60, SMALL))
SECOND = exists(5, 120, 60, 120, (60, 90, SMALL))
STORY = [
    node(1, 5),
    charged(2, 10, SMALL),
    FIRST,
    closed(4, 60, 0, 60, FIRST),
    SECOND,
    closed(6, 120, 60, 120, SECOND),
]


@pytest.fixture
def books() -> Books:
    return Books({})


def is_closed(books: Books, begin: float, end: float) -> bool:
    return PLACE not in books.closed(at(begin), at(end))


def test_a_period_is_closed_by_its_last_event(books: Books) -> None:
    books.hear_all(STORY[:3])
    assert books.closed(at(0), at(60)) == [PLACE]
    books.hear(STORY[3])
    assert books.closed(at(0), at(60)) == []
    assert books.closed(at(20), at(40)) == []
    assert books.closed(at(0), at(61)) == [PLACE]
    books.hear_all(STORY[4:])
    assert books.closed(at(0), at(120)) == []


def test_a_node_without_instances_is_closed_too(books: Books) -> None:
    books.hear_all([node(1, 0), closed(2, 60, 0, 60)])
    assert is_closed(books, 0, 60)


@pytest.mark.parametrize("lost", range(5))
def test_it_is_not_while_something_before_it_is_missing(books: Books, lost: int) -> None:
    books.hear_all(message for index, message in enumerate(STORY) if index != lost)
    assert not is_closed(books, 60, 120)
    books.hear(STORY[lost])
    assert is_closed(books, 0, 120)


@pytest.mark.parametrize("spoil", [{"exists": 2}, {"seconds": 1}, {"resource_seconds": LARGE}])
def test_it_is_not_when_its_exists_are_not_what_it_says(books: Books, spoil: dict[str, object]) -> None:
    spoiled = {**STORY[3], "payload": {**STORY[3]["payload"], **spoil}}
    books.hear_all([*STORY[:3], spoiled, *STORY[4:]])
    assert not is_closed(books, 0, 60)
    assert is_closed(books, 60, 120)


def test_an_adjustment_belongs_to_the_sums_of_the_period_that_tells_it(books: Books) -> None:
    told = exists(5, 120, 60, 120, adjustments=[adjustment(0, 60, -1800, SMALL)])
    books.hear_all([*STORY[:4], moved(5, 70, 30, None)])
    told["payload"]["sequence"] = 6
    books.hear_all([told, closed(7, 120, 60, 120, told)])
    assert is_closed(books, 0, 120)
    assert books.differences(at(0), at(120)) == []


def test_parts_are_counted_one_by_one(books: Books) -> None:
    other = exists(4, 60, 0, 60, (5, 10, LARGE), part=2, parts=2)
    books.hear_all([node(1, 0), charged(2, 5, LARGE), FIRST, other, closed(5, 60, 0, 60, FIRST, other)])
    assert is_closed(books, 0, 60)


def test_the_time_before_a_node_is_closed(books: Books) -> None:
    books.hear_all([node(1, 90), closed(2, 120, 60, 120)])
    assert is_closed(books, 0, 120)
    books.hear(node(2, 30, place=("h2", "a")))
    assert books.closed(at(0), at(120)) == [("h2", "a")]


def test_a_node_that_is_made_is_not_closed_before_its_first_period_is(books: Books) -> None:
    books.hear(node(1, 90))
    assert is_closed(books, 0, 90)
    assert not is_closed(books, 0, 91)


def test_a_change_of_the_option_makes_no_hole(books: Books) -> None:
    books.hear_all([node(1, 0), closed(2, 60, 0, 60), closed(3, 180, 60, 180), closed(4, 190, 180, 190)])
    assert is_closed(books, 0, 190)


def test_a_retired_nodes_last_period_is_that_of_its_retirement(books: Books) -> None:
    books.hear_all([node(1, 0), closed(2, 60, 0, 60), node(3, 90, state="retired")])
    assert not is_closed(books, 60, 120)
    books.hear(closed(4, 120, 60, 120))
    assert is_closed(books, 0, 100_00)
    books.hear(node(5, 300))
    assert not is_closed(books, 0, 400)
    books.hear(closed(6, 360, 300, 360))
    assert is_closed(books, 0, 360)  # no number is missing: in between it was out of service
    assert not is_closed(books, 0, 361)


def test_a_retired_node_that_is_charged_again_is_not_closed(books: Books) -> None:
    """A hand-over is a fact, also where nobody expects it."""
    books.hear_all([node(1, 0), node(2, 30, state="retired"), closed(3, 60, 0, 60)])
    assert is_closed(books, 0, 120)
    books.hear(moved(4, 100, 90, SMALL))
    assert is_closed(books, 0, 90)
    assert not is_closed(books, 0, 120)


def test_a_hole_in_which_no_number_is_missing_is_a_time_without_a_node(books: Books) -> None:
    """Its host was forgotten, and came back."""
    books.hear_all([node(1, 0), closed(2, 60, 0, 60), node(3, 250), closed(4, 300, 240, 300)])
    assert is_closed(books, 0, 300)


def test_a_hole_behind_a_number_that_is_not_known_is_one(books: Books) -> None:
    books.hear_all([node(1, 0), closed(2, 60, 0, 60), closed(4, 180, 120, 180)])
    assert not is_closed(books, 60, 120)
    books.hear(closed(3, 120, 60, 120))
    assert is_closed(books, 0, 180)


def test_a_period_in_which_a_node_got_another_name_is_closed_under_that(books: Books) -> None:
    new = ("h2", "b")
    told = exists(2, 120, 60, 120, (60, 120, SMALL), place=new)
    books.hear_all(STORY[:4])
    books.hear(node(5, 70, generation=9, next_host="h2", next_node="b"))
    books.hear(node(1, 70, place=new, generation=9, previous_host="h1", previous_node="a"))
    assert books.closed(at(0), at(120)) == [new]
    books.hear_all([told, closed(3, 120, 60, 120, told, place=new)])
    assert books.closed(at(0), at(120)) == []


def test_another_name_closes_nothing_of_what_was_before(books: Books) -> None:
    books.hear_all(STORY[:3])
    books.hear(node(4, 70, generation=9, next_host="h2", next_node="b"))
    books.hear(node(1, 70, place=("h2", "b"), generation=9, previous_host="h1", previous_node="a"))
    assert books.closed(at(0), at(60)) == [("h2", "b")]


def test_what_the_former_node_of_a_name_has_closed_is_not_the_other_ones(books: Books) -> None:
    new = ("h2", "b")
    books.hear_all([node(1, 0, place=new), closed(2, 60, 0, 60, place=new), *STORY[:2]])
    books.hear(node(3, 70, generation=9, next_host="h2", next_node="b"))
    books.hear(node(3, 70, place=new, generation=9, previous_host="h1", previous_node="a"))
    assert books.closed(at(0), at(60)) == [new]


def test_a_name_that_is_used_again_has_another_node(books: Books) -> None:
    new = ("h2", "b")
    books.hear_all([*STORY[:4], node(5, 70, generation=9, next_host="h2", next_node="b")])
    books.hear(node(1, 70, place=new, generation=9, previous_host="h1", previous_node="a"))
    books.hear(node(6, 90, generation=10))
    assert books.closed(at(0), at(60)) == []
    assert books.closed(at(0), at(90)) == [new]
    assert books.closed(at(0), at(91)) == [PLACE, new]


def test_a_name_without_a_node_may_get_one(books: Books) -> None:
    books.hear_all([node(1, 0), closed(2, 60, 0, 60), node(3, 70, id=0, state="unknown"), node(4, 300)])
    assert is_closed(books, 0, 300)
    assert not is_closed(books, 0, 301)


def test_a_new_history_makes_no_hole(books: Books) -> None:
    books.hear_all([node(1, 0), closed(2, 60, 0, 60)])
    books.hear(node(3, 250, ledger=LATER_LEDGER, previous_ledger_id=LEDGER, previous_sequence=2))
    books.hear(closed(4, 300, 240, 300, ledger=LATER_LEDGER))
    assert is_closed(books, 0, 300)


def test_a_node_that_is_replaced_needs_no_period_for_what_it_was_not_charged(books: Books) -> None:
    new = ("h2", "b")
    books.hear_all([node(1, 0, place=new), closed(2, 60, 0, 60, place=new), *STORY[:4]])
    books.hear(node(5, 70, generation=9, next_host="h2", next_node="b"))
    books.hear(node(3, 70, place=new, generation=9, previous_host="h1", previous_node="a"))
    told = exists(4, 120, 60, 120, (60, 120, SMALL), place=new)
    books.hear_all([told, closed(5, 120, 60, 120, told, place=new)])
    assert books.closed(at(0), at(120)) == []


def test_a_late_start_knows_only_the_periods_that_it_has_heard(books: Books) -> None:
    books.hear_all(STORY[4:])
    assert books.missing() == {PLACE: [(1, 4)]}
    assert not is_closed(books, 60, 120)
