# SPDX-License-Identifier: Apache-2.0
"""A node that gets another name or another host takes what it is charged along."""

from __future__ import annotations

import itertools

from tests.support.billing.messages import LARGE, LATER_LEDGER, LEDGER, SMALL, Message, at, charged, moved, node
from tests.support.builders import uuid
from tracker_worker.billing import Books, Usage

HOUR = at(0), at(60)
OLD, NEW = ("h1", "a"), ("h2", "b")


def leaves(
    sequence: int, minutes: float, *, place: tuple[str, str] = OLD, to: tuple[str, str] = NEW, generation: int
) -> Message:
    return node(sequence, minutes, place=place, generation=generation, next_host=to[0], next_node=to[1])


def comes(
    sequence: int, minutes: float, *, place: tuple[str, str] = NEW, of: tuple[str, str] = OLD, generation: int
) -> Message:
    return node(sequence, minutes, place=place, generation=generation, previous_host=of[0], previous_node=of[1])


STORY = [
    node(1, 0),
    charged(2, 10, SMALL),
    leaves(3, 20, generation=3),
    comes(1, 20, generation=3),
    charged(2, 40, LARGE, place=NEW, generation=4),
]


def pieces(usage: Usage, number: int = 1) -> list[tuple[str, str, int, str]]:
    segments = usage["p"]["instances"][uuid(number)]["segments"] if "p" in usage else []
    return [(each["from"][14:16], each["to"][14:16], each["resources"]["VCPU"], each["node"]) for each in segments]


def test_its_charges_go_on_under_the_new_name_in_any_order() -> None:
    for order in itertools.permutations(STORY):
        books = Books({})
        books.hear_all(order)
        assert pieces(books.usage(*HOUR)) == [("10", "20", 1, "a"), ("20", "40", 1, "b"), ("40", "00", 4, "b")]
        assert books.missing() == {}


def test_one_of_the_two_events_is_enough_until_the_other_one_is_known() -> None:
    for lost in (2, 3):
        books = Books({})
        books.hear_all(message for index, message in enumerate(STORY) if index != lost)
        assert [each[:3] for each in pieces(books.usage(*HOUR))] == [("10", "20", 1), ("20", "40", 1), ("40", "00", 4)]
        assert books.missing() != {}


def test_a_new_name_of_which_nothing_is_known_has_what_the_old_one_had() -> None:
    books = Books({})
    books.hear_all(STORY[:3])
    assert pieces(books.usage(*HOUR)) == [("10", "20", 1, "a"), ("20", "00", 1, "b")]


def test_a_hand_over_that_is_told_late_cuts_across_the_names() -> None:
    books = Books({})
    books.hear_all([*STORY[:4], moved(2, 50, 15, None, place=NEW, generation=4)])
    assert [each[:3] for each in pieces(books.usage(*HOUR))] == [("10", "15", 1)]


def test_the_old_name_may_have_another_node_and_the_new_one_may_have_had_one() -> None:
    books = Books({})
    books.hear_all(
        [
            node(1, 0, place=NEW, generation=1),
            charged(2, 1, SMALL, number=2, place=NEW, generation=2),
            charged(3, 5, None, number=2, place=NEW, generation=3),
            node(1, 0),
            charged(2, 10, SMALL),
            leaves(3, 20, generation=9),
            comes(4, 20, generation=9),
            node(4, 30, generation=10),
            charged(5, 30, LARGE, number=3, generation=11),
        ]
    )
    usage = books.usage(*HOUR)
    assert pieces(usage, 1) == [("10", "20", 1, "a"), ("20", "00", 1, "b")]
    assert pieces(usage, 2) == [("01", "05", 1, "b")]
    assert pieces(usage, 3) == [("30", "00", 4, "a")]


def test_there_and_back_again() -> None:
    books = Books({})
    books.hear_all(
        [*STORY[:4], leaves(2, 30, place=NEW, to=OLD, generation=4), comes(4, 30, place=OLD, of=NEW, generation=4)]
    )
    books.hear(charged(5, 50, None, generation=5))
    assert [each[:3] for each in pieces(books.usage(*HOUR))] == [("10", "20", 1), ("20", "30", 1), ("30", "50", 1)]


def test_two_nodes_change_their_names() -> None:
    spare = ("h1", "spare")
    books = Books({})
    books.hear_all([node(1, 0), charged(2, 0, SMALL), node(1, 0, place=NEW), charged(2, 0, LARGE, number=2, place=NEW)])
    books.hear_all([leaves(3, 20, to=spare, generation=3), comes(1, 20, place=spare, of=OLD, generation=3)])
    books.hear_all([leaves(3, 21, place=NEW, to=OLD, generation=4), comes(4, 21, place=OLD, of=NEW, generation=4)])
    books.hear_all([leaves(2, 22, place=spare, to=NEW, generation=5), comes(4, 22, place=NEW, of=spare, generation=5)])
    usage = books.usage(*HOUR)
    assert [each[3] for each in pieces(usage, 1)] == ["a", "spare", "b"]
    assert [each[3] for each in pieces(usage, 2)] == ["b", "a"]
    assert usage["p"]["seconds"] == 2 * 3600


def test_a_new_name_in_a_history_that_never_happened_is_none() -> None:
    books = Books({})
    books.hear_all([*STORY])
    books.hear(node(3, 30, ledger=LATER_LEDGER, generation=3, previous_ledger_id=LEDGER, previous_sequence=2))
    assert pieces(books.usage(*HOUR)) == [("10", "00", 1, "a")]


def test_nor_is_one_that_both_names_have_told() -> None:
    history = {"ledger": LATER_LEDGER, "previous_ledger_id": LEDGER}
    books = Books({})
    books.hear_all([node(1, 0), charged(2, 10, SMALL), node(1, 0, place=NEW)])
    books.hear_all([leaves(3, 20, generation=3), comes(2, 20, generation=3)])
    books.hear(node(3, 30, generation=3, previous_sequence=2, **history))
    books.hear(node(2, 30, generation=2, previous_sequence=1, place=NEW, **history))
    assert pieces(books.usage(*HOUR)) == [("10", "00", 1, "a")]
    assert books.missing() == {}


def test_of_a_node_that_comes_from_what_is_not_known_something_is_missing() -> None:
    books = Books({})
    books.hear_all(STORY[3:])
    assert books.missing() == {NEW: [(1, 1)]}
    books.hear_all(STORY[:3])
    assert books.missing() == {}


def test_so_is_it_under_its_next_name() -> None:
    third = ("h3", "c")
    books = Books({})
    books.hear(comes(1, 20, generation=3))
    books.hear(leaves(2, 30, place=NEW, to=third, generation=4))
    books.hear(comes(1, 30, place=third, of=NEW, generation=4))
    assert books.missing() == {NEW: [(1, 1)], third: [(1, 1)]}


def test_what_is_missing_of_the_old_name_afterwards_is_not_missing_of_the_new_one() -> None:
    books = Books({})
    books.hear_all([*STORY, node(5, 50, generation=6)])
    assert books.missing() == {OLD: [(4, 4)]}


def test_a_node_may_have_had_thousands_of_names() -> None:
    books = Books({})
    books.hear_all([node(1, 0, place=("h", "0")), charged(2, 0, SMALL, place=("h", "0"))])
    for number in range(2000):
        here, there = ("h", str(number)), ("h", str(number + 1))
        books.hear(leaves(3 if number == 0 else 2, 10, place=here, to=there, generation=number + 3))
        books.hear(comes(1, 10, place=there, of=here, generation=number + 3))
    assert books.missing() == {}
    assert books.usage(*HOUR)["p"]["seconds"] == 3600
