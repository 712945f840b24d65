# SPDX-License-Identifier: Apache-2.0
"""A database that went back, one that was replaced, and what of it counts."""

from __future__ import annotations

import itertools

import pytest

from tests.support.billing.messages import LARGE, LATER_LEDGER, LEDGER, SMALL, Message, at, charged, node
from tests.support.builders import uuid
from tracker_worker.billing import Books

HOUR = at(0), at(60)
B, C = LATER_LEDGER, "019bc0de-0000-7000-8000-000000000003"


def announced(
    sequence: int, minutes: float, last: int, *, ledger: str = B, before: str = LEDGER, **more: object
) -> Message:
    """The first event of a name in a new history."""
    fields = {"previous_ledger_id": before, "previous_sequence": last, **more}
    return node(sequence, minutes, ledger=ledger, generation=sequence, **fields)


def seconds(books: Books, number: int = 1) -> int:
    usage = books.usage(*HOUR)
    return (
        usage["p"]["instances"][uuid(number)]["seconds"]
        if uuid(number) in usage.get("p", {"instances": {}})["instances"]
        else 0
    )


OLD = [node(1, 0), charged(2, 10, SMALL), charged(3, 20), charged(4, 25, LARGE, number=2)]


def test_what_was_heard_beyond_the_number_never_happened() -> None:
    books = Books({})
    books.hear_all(OLD)
    assert (seconds(books, 1), seconds(books, 2)) == (600, 2100)
    assert books.hear(announced(3, 30, 2)) == "odd"
    assert (seconds(books, 1), seconds(books, 2)) == (3000, 0)
    assert books.odd[0][1] == f"the history {LEDGER} of h1/a ends with the number 2: 2 messages never happened"
    assert books.hear(charged(4, 40, None, ledger=B)) == "new"
    assert seconds(books, 1) == 1800
    assert books.missing() == {}


@pytest.mark.parametrize("reopens", [False, True])
def test_the_order_does_not_matter_and_numbers_may_come_again(reopens: bool) -> None:
    story = [*OLD, announced(3, 30, 2), charged(4, 40, LARGE, ledger=B)]
    expected = None
    for order in itertools.permutations(story):
        state: dict[str, object] = {}
        books = Books(state)
        answers = []
        for message in order:
            books = Books(state) if reopens else books
            answers.append(books.hear(message))
        said = dict(zip([message["message_id"] for message in order], answers, strict=True))
        assert said[story[4]["message_id"]] == "odd"
        for late in (story[2], story[3]):
            if order.index(late) > order.index(story[4]):
                assert said[late["message_id"]] == "odd"
        assert books.missing() == {}
        expected = expected or books.usage(*HOUR)
        assert books.usage(*HOUR) == expected


def test_a_history_goes_on_one_that_goes_on_another_one() -> None:
    books = Books({})
    books.hear_all([*OLD, announced(4, 30, 3), charged(5, 35, SMALL, ledger=B)])
    books.hear(announced(3, 40, 2, ledger=C, before=B))
    assert seconds(books, 1) == 3000
    assert books.missing() == {}


def test_what_is_missing_of_the_earlier_history_is_missing_as_far_as_it_counts() -> None:
    books = Books({})
    books.hear_all([OLD[0], OLD[3]])
    assert books.missing() == {("h1", "a"): [(2, 3)]}
    books.hear(announced(3, 30, 2))
    assert books.missing() == {("h1", "a"): [(2, 2)]}
    books.hear(announced(9, 50, 8, ledger=C, before=B))
    assert books.missing() == {("h1", "a"): [(2, 2), (4, 8)]}


def test_of_a_history_that_begins_in_what_is_not_known_everything_before_is_missing() -> None:
    books = Books({})
    books.hear(announced(9, 30, 8))
    assert books.missing() == {("h1", "a"): [(1, 8)]}


def test_a_name_whose_first_word_is_lost_goes_on_as_it_was_until_it_is_missed() -> None:
    books = Books({})
    books.hear_all([*OLD[:2], node(1, 0, place=("h1", "b"))])
    books.hear(announced(2, 20, 1, place=("h1", "b")))
    books.hear(charged(4, 25, LARGE, ledger=B))
    assert seconds(books) == 3000
    assert books.missing() == {("h1", "a"): [(1, 3)]}


class TestNamesThatDoNotTell:
    def test_a_name_that_was_made_in_what_is_lost_never_was(self) -> None:
        books = Books({})
        made = [node(1, 5, place=("h1", "b")), charged(2, 6, LARGE, number=2, place=("h1", "b"))]
        books.hear_all([*OLD[:2], *made])
        assert seconds(books, 2) == 54 * 60
        books.hear(announced(3, 30, 2))
        assert (seconds(books, 1), seconds(books, 2)) == (3000, 0)
        # Until a worker says so, its word may be what is missing.
        assert books.missing() == {("h1", "b"): [(3, 3)]}
        books.hear(announced(3, 31, 2, place=("h1", "b")))
        assert (seconds(books, 2), books.missing()) == (54 * 60, {})

    def test_a_name_that_the_new_history_begins_anew_is_another_one(self) -> None:
        books = Books({})
        place = ("h1", "b")
        books.hear_all([*OLD[:2], node(1, 5, place=place), charged(2, 6, LARGE, number=2, place=place)])
        assert books.hear_all([announced(3, 30, 2), node(1, 40, place=place, ledger=B)]) == ["odd", "new"]
        books.hear(charged(2, 50, SMALL, number=3, place=place, ledger=B))
        assert (seconds(books, 1), seconds(books, 2), seconds(books, 3)) == (3000, 0, 600)
        assert books.missing() == {}

    def test_a_name_without_a_node_tells_that_it_has_nothing(self) -> None:
        books = Books({})
        books.hear_all(OLD[:2])
        books.hear(announced(3, 30, 2, id=0, state="unknown"))
        assert seconds(books, 1) == 1200
        assert books.closed(*HOUR) == [("h1", "a")]  # it was charged, and no period was closed
        assert books.closed(at(31), at(60)) == []


class TestAnotherDatabase:
    def test_the_earlier_one_ends_where_the_later_one_begins_to_serve_the_host(self) -> None:
        story = [
            *OLD[:2],
            node(1, 1, place=("h1", "b")),
            charged(2, 10, SMALL, number=2, place=("h1", "b")),
            node(1, 1, place=("h2", "a")),
            charged(2, 10, SMALL, number=3, place=("h2", "a")),
            node(1, 40, ledger=B),
            charged(2, 50, SMALL, number=4, ledger=B),
        ]
        for order in (story, story[::-1]):
            books = Books({})
            books.hear_all(order)
            assert [seconds(books, number) for number in (1, 2, 3, 4)] == [1800, 1800, 3000, 600]
            assert books.missing() == {}

    def test_each_ends_where_the_next_one_begins(self) -> None:
        books = Books({})
        books.hear_all(
            [*OLD[:2], node(1, 20, ledger=C), charged(2, 20, LARGE, number=2, ledger=C), node(1, 50, ledger=B)]
        )
        assert (seconds(books, 1), seconds(books, 2)) == (600, 1800)

    def test_what_two_of_them_go_on_counts_once(self) -> None:
        """A copy of the database was made another ledger, and took over the host."""
        books = Books({})
        books.hear_all([*OLD[:2], announced(3, 30, 2), announced(3, 40, 2, ledger=C)])
        assert seconds(books, 1) == 3000

    def test_one_that_comes_back_goes_on_as_its_history_says(self) -> None:
        books = Books({})
        books.hear_all([*OLD[:2], node(1, 30, ledger=B), charged(2, 35, LARGE, number=2, ledger=B)])
        books.hear(announced(3, 45, 2, ledger=C))
        assert (seconds(books, 1), seconds(books, 2)) == (3000, 600)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_an_announcement_that_is_lost_is_missing(lost: int) -> None:
    """Whichever of the three histories' first events it is."""
    story = [node(1, 0), charged(2, 10, SMALL), announced(3, 20, 2), charged(4, 25, LARGE, ledger=B)]
    story += [announced(5, 30, 4, ledger=C, before=B), charged(6, 40, SMALL, ledger=C)]
    books = Books({})
    books.hear_all(message for index, message in enumerate(story) if index != 2 * lost)
    assert books.missing() != {}
    books.hear(story[2 * lost])
    assert books.missing() == {}
