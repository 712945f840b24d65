# SPDX-License-Identifier: Apache-2.0
"""Numbers count once, in any order; what is not the usual course is said."""

from __future__ import annotations

import itertools
import json

import pytest

from tests.support.billing.messages import LARGE, LATER_LEDGER, LEDGER, SMALL, charged, node
from tests.support.builders import uuid
from tracker_worker.billing import Books

DAY = "2026-01-01", "2026-01-02"
STORY = [node(1, 0), charged(2, 10, SMALL), charged(3, 20, LARGE), charged(4, 50)]


@pytest.fixture
def books() -> Books:
    return Books({})


def test_every_order_gives_the_same_books(books: Books) -> None:
    assert books.hear_all(STORY) == ["new"] * 4
    for order in itertools.permutations(STORY):
        other = Books({})
        answers = [other.hear(message) for message in order for _ in range(2)]
        assert answers[1::2] == ["copy"] * 4
        known: set[int] = set()
        for answer, message in zip(answers[::2], order, strict=True):
            known.add(message["payload"]["sequence"])
            assert answer == ("new" if set(range(1, message["payload"]["sequence"])) <= known else "early")
        assert other.usage(*DAY) == books.usage(*DAY)
        assert (other.missing(), other.odd) == ({}, [])


def test_what_is_missing_is_said_per_host_and_node(books: Books) -> None:
    for sequence in (1, 3, 4, 9):
        books.hear(charged(sequence, sequence, SMALL))
    books.hear(charged(2, 0, SMALL, place=("h1", "b")))
    books.hear(charged(1, 0, SMALL, place=("h2", "a")))
    assert books.missing() == {("h1", "a"): [(2, 2), (5, 8)], ("h1", "b"): [(1, 1)]}


def test_a_number_far_ahead_takes_no_room(books: Books) -> None:
    books.hear(STORY[0])
    assert books.hear(charged(2**62, 60, SMALL)) == "early"
    assert books.missing() == {("h1", "a"): [(2, 2**62 - 1)]}
    assert books.usage(*DAY)["p"]["seconds"] == 23 * 3600


def test_events_behind_a_gap_count_as_they_are(books: Books) -> None:
    books.hear_all([STORY[0], STORY[1], STORY[3]])
    [segment] = books.usage(*DAY)["p"]["instances"][uuid(1)]["segments"]
    assert (segment["from"], segment["to"], segment["resources"]) == (
        "2026-01-01T00:10:00Z",
        "2026-01-01T00:50:00Z",
        SMALL,
    )
    books.hear(STORY[2])
    assert [each["resources"] for each in books.usage(*DAY)["p"]["instances"][uuid(1)]["segments"]] == [SMALL, LARGE]


def test_another_message_with_a_known_number_is_odd_and_left_out(books: Books) -> None:
    books.hear_all(STORY[:2])
    other = {**charged(2, 10, LARGE), "message_id": "other"}
    assert books.hear(other) == "odd"
    assert books.odd == [(other, f"the number 2 is that of the message {STORY[1]['message_id']}")]
    assert books.usage(*DAY)["p"]["instances"][uuid(1)]["segments"][0]["resources"] == SMALL


def test_a_ledger_that_nothing_announces_is_odd_once_and_counts(books: Books) -> None:
    books.hear_all(STORY[:2])
    assert books.hear(node(1, 30, ledger=LATER_LEDGER)) == "odd"
    assert books.hear(node(1, 30, ledger=LATER_LEDGER)) == "copy"
    assert books.hear(charged(2, 40, LARGE, ledger=LATER_LEDGER)) == "new"
    assert books.hear(node(1, 30, ledger=LATER_LEDGER, place=("h1", "b"))) == "new"
    assert books.hear(node(1, 30, ledger=LATER_LEDGER, place=("h2", "a"))) == "new"
    [(message, reason)] = books.odd
    assert message["payload"]["ledger_id"] == LATER_LEDGER
    assert reason == f"nothing announces the ledger {LATER_LEDGER} of the host h1: it is another database"


def test_a_number_before_the_first_one_of_a_history_is_odd(books: Books) -> None:
    history = {"previous_ledger_id": LEDGER, "previous_sequence": 2}
    books.hear_all([*STORY, node(3, 60, ledger=LATER_LEDGER, **history)])
    assert books.hear(charged(2, 10, SMALL, ledger=LATER_LEDGER)) == "odd"
    assert books.hear({**node(4, 70, ledger=LATER_LEDGER, **history), "message_id": "again"}) == "odd"
    backwards = node(9, 80, previous_ledger_id=LATER_LEDGER, previous_sequence=3)
    assert books.hear(backwards) == "odd"
    assert [reason for _, reason in books.odd][1:] == [
        f"the history {LATER_LEDGER} begins with the number 3",
        f"the history {LATER_LEDGER} has begun already",
        f"the history {LEDGER} has begun already",
    ]
    assert books.usage(*DAY)["p"]["seconds"] == 86400 - 600


def test_so_many_odd_messages_are_kept(books: Books) -> None:
    books.hear_all({"event_type": str(number)} for number in range(1010))
    assert [message["event_type"] for message, _ in books.odd] == [str(number) for number in range(10, 1010)]
    books.clear_odd()
    assert books.odd == []
    assert books.hear({}) == "odd"
    assert len(books.odd) == 1


def test_names_of_any_characters_are_names() -> None:
    state: dict[str, object] = {}
    places = [("h/1", "a"), ("h", "1/a"), ('"h', "a"), ("h\ud800", "\0"), ("é", "a")]
    books = Books(state)
    for place in places:
        assert books.hear(charged(2, 0, SMALL, place=place)) == "early"
    assert books.missing() == {place: [(1, 1)] for place in places}
    assert Books(json.loads(json.dumps(state))).missing() == books.missing()
