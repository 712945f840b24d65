# SPDX-License-Identifier: Apache-2.0
"""What lies before a time is dropped, and what is charged then goes on: the state is as large as the cloud, not as its past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.billing.messages import LARGE, LATER_LEDGER, LEDGER, SMALL, at, charged, closed, exists, moved, node
from tests.support.builders import uuid
from tracker_worker.billing import Books, SqliteState
from tracker_worker.errors import NodeNotFound

WHOLE = exists(4, 60, 0, 60, (10, 60, SMALL))
STORY = [
    node(1, 0),
    charged(2, 10, SMALL),
    charged(3, 20, LARGE, number=2),
    WHOLE,
    closed(5, 60, 0, 60, WHOLE),
    charged(6, 70, number=2),
    charged(7, 80, LARGE),
]


def test_what_comes_after_the_time_stays_and_what_was_before_is_gone() -> None:
    state: dict[str, object] = {}
    books, whole = Books(state), Books({})
    books.hear_all(STORY)
    whole.hear_all(STORY)
    books.forget(at(75))
    for again in (books, Books(state)):
        assert again.usage(at(75), at(120)) == whole.usage(at(75), at(120))
        assert again.closed(at(75), at(120)) == [("h1", "a")]
        assert again.missing() == {}
        assert again.hear_all(STORY) == ["copy"] * 7
        for ask in (again.usage, again.closed, again.differences):
            with pytest.raises(ValueError, match="the books begin at 2026-01-01T01:15:00Z"):
                ask(at(74), at(120))
    books.hear(charged(8, 90))
    whole.hear(charged(8, 90))
    assert books.usage(at(75), at(120)) == whole.usage(at(75), at(120))


def test_the_state_does_not_grow_with_what_was_forgotten(tmp_path: Path) -> None:
    with SqliteState(tmp_path / "books.sqlite") as state:
        books = Books(state)
        sizes = set()
        for day in range(10):
            number = 20 * day
            books.hear_all(charged(number + n, 1000 * day + n, LARGE if n % 2 else SMALL) for n in range(1, 21))
            books.forget(at(1000 * day + 25))
            sizes.add(len(state))
    assert sizes == {3}  # the books, a stream, and what is charged


def test_what_no_longer_is_charged_takes_no_room() -> None:
    state: dict[str, object] = {}
    books = Books(state)
    for number in range(1, 2000, 2):
        books.hear_all(
            [charged(number, number, SMALL, number=number), charged(number + 1, number + 0.5, number=number)]
        )
    books.forget(at(5000))
    assert len(state) == 3
    assert len(str(state)) < 1000


def test_many_instances_are_put_together_in_pages() -> None:
    state: dict[str, object] = {}
    books = Books(state)
    books.hear_all(charged(number, 0, SMALL, number=number) for number in range(1, 1202))
    before = books.usage(at(10), at(20))
    books.forget(at(10))
    assert len(state) == 2 + 3
    assert Books(state).usage(at(10), at(20)) == before
    assert len(before["p"]["instances"]) == 1201


def test_behind_a_missing_number_everything_is_kept_until_it_is_known() -> None:
    books = Books({})
    books.hear_all([*STORY[:2], STORY[3], STORY[5]])
    books.forget(at(100))
    assert books.missing() == {("h1", "a"): [(3, 3), (5, 5)]}
    assert books.usage(at(100), at(120))["p"]["instances"].keys() == {uuid(1)}
    books.hear_all([STORY[2], STORY[4]])
    books.forget(at(100))
    assert books.missing() == {}
    assert books.hear(STORY[2]) == "copy"


def test_a_hand_over_that_is_told_later_cuts_what_is_kept() -> None:
    books = Books({})
    books.hear_all(STORY)
    books.forget(at(85))
    books.hear(moved(8, 100, 75, None))
    assert books.usage(at(85), at(120)) == {}
    ahead = Books({})
    ahead.hear_all([*STORY, moved(8, 100, 130, None)])
    ahead.forget(at(110))
    assert ahead.usage(at(110), at(200))["p"]["seconds"] == 1200


def test_a_node_with_another_name_is_put_together_with_what_it_brings() -> None:
    new = ("h2", "b")
    leaves = node(8, 90, generation=9, next_host="h2", next_node="b")
    comes = node(1, 90, place=new, generation=9, previous_host="h1", previous_node="a")
    story = [*STORY, leaves, comes, charged(2, 95, SMALL, place=new, generation=10)]
    for before in (85, 90, 92, 97):
        for lost in (7, 8, None):
            books, whole = Books({}), Books({})
            books.hear_all(message for index, message in enumerate(story) if index != lost)
            whole.hear_all(story)
            books.forget(at(before))
            if lost is not None:
                assert books.missing() != {}
                books.hear(story[lost])
                books.forget(at(before))
            assert books.usage(at(97), at(200)) == whole.usage(at(97), at(200))
            assert (books.missing(), books.odd) == ({}, [])


def test_a_name_without_a_node_may_get_one_later() -> None:
    books = Books({})
    books.hear_all([*STORY, node(8, 90, generation=9, next_host="h2", next_node="b")])
    books.hear(node(1, 90, place=("h2", "b"), generation=9, previous_host="h1", previous_node="a"))
    books.forget(at(100))
    assert books.closed(at(100), at(110)) == [("h2", "b")]
    books.hear(node(9, 300, generation=10))
    assert books.closed(at(100), at(300)) == [("h2", "b")]
    assert books.closed(at(100), at(301)) == [("h1", "a"), ("h2", "b")]


class Worker:
    """Knows one name, of whose numbers its outbox keeps none, and what it is charged."""

    def __init__(self, place: tuple[str, str], last: int, instances: list[tuple[float, dict[str, int]]]) -> None:
        self.place, self.last, self.instances = place, last, instances

    def get_notifications(
        self, _: Any, host: str, node: str, after_sequence: int = 0, limit: int = 100
    ) -> dict[str, Any]:
        if (host, node) != self.place:
            raise NodeNotFound(host=host, node=node)
        return {"ledger_id": LEDGER, "first": self.last + 1, "last": self.last, "notifications": []}

    def get_instances(self, _: Any, host: str, node: str, after: str | None = None, limit: int = 500) -> dict[str, Any]:
        if not self.instances:
            raise NodeNotFound(host=host, node=node)
        entries = [
            {**charged(1, 0, resources)["payload"], "since": at(since), "occurred_at": at(98)}
            for since, resources in self.instances
        ]
        return {"ledger_id": LEDGER, "sequence": self.last, "instances": entries, "next": None}


@pytest.mark.parametrize("lost", ["of the old name", "of the new name"])
def test_a_node_is_put_together_though_a_name_has_lost_its_word(lost: str) -> None:
    new = ("h2", "b")
    leaves = node(8, 90, generation=9, next_host="h2", next_node="b")
    comes = node(1, 90, place=new, generation=9, previous_host="h1", previous_node="a")
    state: dict[str, object] = {}
    books = Books(state)
    books.hear_all([*STORY, charged(2, 96, SMALL, number=2, place=new, generation=10)])
    if lost == "of the old name":
        books.hear_all([comes, node(9, 97, generation=11)])
        worker = Worker(("h1", "a"), 9, [])
    else:
        books.hear(leaves)
        worker = Worker(new, 2, [(80, LARGE)])
    assert books.missing() != {}
    for asked in (worker, Worker(new, 2, [(80, LARGE)])):
        books.catch_up(asked, {}, [asked.place])
    assert books.missing() == {}
    before = books.usage(at(100), at(200))
    assert before["p"]["instances"][uuid(1)]["resource_seconds"]["VCPU"] == 4 * 6000
    books.forget(at(100))
    assert books.usage(at(100), at(200)) == before
    assert Books(state).usage(at(100), at(200)) == before
    assert not any('"event"' in name for name in state)


def test_what_never_happened_is_dropped_when_that_is_known() -> None:
    state: dict[str, object] = {}
    books = Books(state)
    made = ("h1", "made")
    books.hear_all([*STORY, node(1, 10, place=made), charged(2, 11, SMALL, number=3, place=made)])
    books.hear(node(8, 90, ledger=LATER_LEDGER, previous_ledger_id=LEDGER, previous_sequence=7))
    books.forget(at(100))
    assert any("made" in name for name in state)
    again = Books(dict(state))
    assert again.catch_up(Worker(("h1", "a"), 8, []), {}, [made]) == {}
    again.forget(at(100))
    assert again.missing() == {}
    # Or the new history has made the name once more.
    books.hear(node(1, 95, place=made, ledger=LATER_LEDGER))
    books.forget(at(100))
    assert books.missing() == {}
    assert not any(LEDGER in name and "made" in name for name in state)


def test_an_earlier_history_is_dropped_and_its_copies_change_nothing() -> None:
    state: dict[str, object] = {}
    books = Books(state)
    history = {"previous_ledger_id": LEDGER, "previous_sequence": 6}
    books.hear_all([*STORY, node(7, 90, ledger=LATER_LEDGER, **history), node(1, 75, place=("h1", "gone"))])
    before = books.usage(at(100), at(120))
    assert before["p"]["resource_seconds"]["VCPU"] == 1200
    books.forget(at(100))
    assert not any(LEDGER in name and "gone" not in name for name in state)
    assert books.hear_all(STORY[:6]) == ["new"] * 6  # they are not known any more
    assert books.usage(at(100), at(120)) == before
    assert books.closed(at(100), at(120)) == [("h1", "a"), ("h1", "gone")]
    assert books.missing() == {("h1", "gone"): [(2, 2)]}


@pytest.mark.parametrize("reopens", [False, True])
def test_the_end_of_a_history_that_is_dropped_is_known(reopens: bool) -> None:
    third = LEDGER[:-1] + "3"
    state: dict[str, object] = {}
    books = Books(state)
    books.hear_all([*STORY[:6], node(7, 90, ledger=LATER_LEDGER, previous_ledger_id=LEDGER, previous_sequence=6)])
    books.hear(node(8, 95, ledger=third, previous_ledger_id=LATER_LEDGER, previous_sequence=7))
    books.forget(at(100))
    assert not any(LATER_LEDGER in name for name in state)
    books = Books(state) if reopens else books
    assert books.hear(STORY[6]) == "odd"
    [*_, (_, reason)] = books.odd
    assert reason == f"it never happened: the history {LEDGER} of h1/a ends with the number 6"


def test_another_database_is_dropped_when_its_end_is_before_the_time() -> None:
    state: dict[str, object] = {}
    books = Books(state)
    books.hear_all([*STORY, node(1, 90, ledger=LATER_LEDGER)])
    books.forget(at(85))
    assert books.usage(at(85), at(120))["p"]["seconds"] == 300
    books.forget(at(100))
    assert books.usage(at(100), at(120)) == {}
    assert not any(LEDGER in name for name in state)


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(ValueError):
        Books({}).forget("later")
