# SPDX-License-Identifier: Apache-2.0
"""Books are kept in a dict, or durably in an SQLite file; what was heard and what follows from it are one transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing.messages import LARGE, SMALL, charged, node
from tracker_worker.billing import Books, SqliteState
from tracker_worker.billing.state import State

DAY = "2026-01-01", "2026-01-02"
STORY = [node(1, 0), charged(2, 10, SMALL), charged(3, 20, LARGE), charged(5, 50)]


def fail_after(books: Books, do: Callable[[], object]) -> None:
    with books.transaction():
        do()
        raise ZeroDivisionError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.sqlite"


@pytest.fixture(params=["dict", "sqlite"])
def state(request: pytest.FixtureRequest, path: Path) -> Iterator[State]:
    if request.param == "dict":
        yield {}
        return
    with SqliteState(path) as state:
        yield state


def test_a_state_is_a_mapping(state: State) -> None:
    state["b"], state["a"] = {"x": [1, None]}, "é"
    state["b"] = {"x": [2]}
    assert dict(state) == {"a": "é", "b": {"x": [2]}}
    assert len(state) == 2
    del state["a"]
    assert "a" not in state
    for missing in (lambda: state["a"], lambda: state.__delitem__("a")):
        with pytest.raises(KeyError):
            missing()


def test_books_that_are_opened_again_are_the_same(state: State) -> None:
    books = Books(state)
    assert books.hear_all([STORY[0], STORY[1], STORY[3], STORY[3]]) == ["new", "new", "early", "copy"]
    assert books.hear({"event_type": "x"}) == "odd"
    for again in (books, Books(state)):
        assert again.missing() == {("h1", "a"): [(3, 4)]}
        assert len(again.odd) == 1
        assert again.hear(STORY[1]) == "copy"
    books = Books(state)
    assert books.hear(STORY[2]) == "new"
    assert Books(state).usage(*DAY) == books.usage(*DAY)
    books.clear_odd()
    assert Books(state).odd == []


def test_an_odd_message_of_any_depth_is_kept(path: Path) -> None:
    with SqliteState(path) as state:
        books = Books(state)
        nested: list[Any] = []
        for depth in range(1100):
            nested = [nested]
            if depth < 2 or depth > 900:
                assert books.hear({"event_type": "x", "payload": nested}) == "odd"
        kept = [message for message, _ in Books(state).odd]
        assert kept[0] == {"event_type": "x", "payload": [[]]}
        assert kept[2]["beginning"].startswith('{"event_type": "x", "payload": [[[')


def test_a_state_that_is_closed_is_not_used_any_more(path: Path) -> None:
    with SqliteState(path) as state:
        Books(state)
    with pytest.raises(sqlite3.Error):
        state["a"] = 1


def test_a_state_of_another_version_is_refused(state: State) -> None:
    Books(state)
    state['["books"]'] = {"version": 99}
    with pytest.raises(ValueError, match="version 99"):
        Books(state)


class TestTransactions:
    def test_a_message_is_durable_when_hear_returns(self, path: Path) -> None:
        state = SqliteState(path)
        books = Books(state)
        assert state.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        for number, message in enumerate(STORY[:3], start=1):
            books.hear(message)
            with sqlite3.connect(path) as other:  # as after the death of the process: nobody has closed the first
                [(count,)] = other.execute("SELECT count(*) FROM tracker_books WHERE name LIKE '[\"event\"%'")
            other.close()
            assert count == number

    def test_an_exception_within_a_transaction_leaves_nothing_of_it(self, path: Path) -> None:
        state = SqliteState(path)
        books = Books(state)
        books.hear(STORY[0])
        before = dict(state)
        with pytest.raises(ZeroDivisionError):
            fail_after(books, lambda: books.hear_all([STORY[1], {"odd": True}]))
        assert dict(state) == before
        assert books.hear(STORY[1]) == "new"
        assert books.odd == []

    def test_an_iterable_that_fails_leaves_nothing_of_what_it_gave(self, path: Path) -> None:
        books = Books(SqliteState(path))

        def messages() -> Iterator[dict[str, Any]]:
            yield STORY[0]
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            books.hear_all(messages())
        assert books.hear(STORY[0]) == "new"

    def test_a_block_within_another_one_fails_alone(self, path: Path) -> None:
        with SqliteState(path) as state:
            books = Books(state)
            with books.transaction():
                books.hear(STORY[0])
                with contextlib.suppress(ZeroDivisionError):
                    fail_after(books, lambda: books.hear(STORY[1]))
                assert books.hear(STORY[1]) == "new"
                assert books.hear(STORY[0]) == "copy"
            assert Books(state).usage(*DAY) == books.usage(*DAY) != {}

    def test_tables_of_the_caller_change_with_the_books(self, path: Path) -> None:
        with SqliteState(path) as state:
            books = Books(state)
            state.connection.execute("CREATE TABLE invoices (number INTEGER)")

            def bill() -> None:
                books.hear(STORY[0])
                state.connection.execute("INSERT INTO invoices VALUES (1)")

            with pytest.raises(ZeroDivisionError):
                fail_after(books, bill)
            with books.transaction():
                books.hear(STORY[0])
                state.connection.execute("INSERT INTO invoices VALUES (2)")
            assert state.connection.execute("SELECT number FROM invoices").fetchall() == [(2,)]
            assert books.hear(STORY[0]) == "copy"

    def test_an_error_of_the_file_ends_the_transaction_and_the_books_go_on_with_what_is_kept(self, path: Path) -> None:
        state = SqliteState(path)
        books = Books(state)
        books.hear(STORY[0])
        state.connection.execute(
            f"PRAGMA max_page_count = {state.connection.execute('PRAGMA page_count').fetchone()[0]}"
        )
        big = [charged(number, number, SMALL, state="x" * 1000) for number in range(2, 50)]
        with pytest.raises(sqlite3.Error):
            books.hear_all(big)
        assert not state.connection.in_transaction
        state.connection.execute("PRAGMA max_page_count = 1000000")
        assert books.hear(STORY[1]) == "new"
        assert books.hear(STORY[0]) == "copy"
