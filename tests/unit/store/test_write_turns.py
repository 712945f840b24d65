# SPDX-License-Identifier: Apache-2.0
"""Turns of the writers of one SQLite file, in virtual time."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.builders import begin, node_name
from tests.support.store import Writer, load, settle, uuids
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.sql.location import sqlite_url
from tracker_worker.store.sql.store import SQLStore
from tracker_worker.store.sql.waiting import PAUSE_SECONDS

N1 = node_name(1)
LOCK_TIMEOUT = 1.5


class Clock:
    """Seconds that pass only in ``sleep``. ``meanwhile`` is called after each."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.slept: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at + 1_800_000_000

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        self.slept.append(seconds)
        self.meanwhile()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def waiting(path: Path) -> Path:
    return path.with_name("ledger.sqlite-waiting")


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SQLStore]:
    store = SQLStore(
        sqlite_url(path),
        lock_timeout_seconds=LOCK_TIMEOUT,
        monotonic=clock.monotonic,
        wall_clock=clock.wall,
        sleep=clock.sleep,
    )
    store.start()
    settle(store)
    yield store
    store.stop()


@pytest.fixture
def other(store: SQLStore, path: Path) -> Iterator[sqlite3.Connection]:
    """Another process, which holds the lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def commit(store: SQLStore, number: int = 1) -> None:
    Writer(store).put(begin(number, node=N1)).commit()


def announce(waiting: Path, clock: Clock, age: float = 0.0) -> None:
    waiting.touch()
    os.utime(waiting, (clock.wall() - age, clock.wall() - age))


def test_a_writer_under_lock_announces_that_it_waits_and_takes_it_back(
    store: SQLStore, other: sqlite3.Connection, clock: Clock, waiting: Path
) -> None:
    seen = []

    def release() -> None:
        seen.append(waiting.exists())
        if len(seen) == 3:
            other.execute("COMMIT")

    clock.meanwhile = release
    with store.locked(1) as locked:
        assert not waiting.exists()
        locked.commit(Writer.on(store, locked.ledger).put(begin(1, node=N1)).made())
    assert seen == [True, True, True]
    assert len(uuids(list(load(store)))) == 1


def test_an_ordinary_commit_announces_itself_when_it_has_waited_long(
    store: SQLStore, other: sqlite3.Connection, clock: Clock, waiting: Path
) -> None:
    began, announced_at = clock.at, []

    def release() -> None:
        if waiting.exists():
            announced_at.append(clock.at - began)
            other.execute("COMMIT")
            clock.meanwhile = lambda: None

    clock.meanwhile = release
    commit(store)
    assert 0.1 <= announced_at[0] < 0.15
    assert not waiting.exists()


def test_a_waiter_announces_itself_again_when_another_one_had_its_turn(
    store: SQLStore, other: sqlite3.Connection, clock: Clock, waiting: Path
) -> None:
    taken_away = []

    def take_away() -> None:
        assert waiting.exists()
        waiting.unlink()
        taken_away.append(clock.at)
        if len(taken_away) == 5:
            other.execute("COMMIT")
            clock.meanwhile = lambda: None

    clock.meanwhile = take_away
    with store.locked(1):
        assert len(taken_away) == 5


@pytest.mark.usefixtures("other")
def test_a_writer_gives_up_after_the_lock_timeout_and_leaves_no_file(
    store: SQLStore, clock: Clock, waiting: Path
) -> None:
    for call in (lambda: commit(store), lambda: store.locked(1).__enter__(), lambda: store.probe(1, 0)):
        began = clock.at
        with pytest.raises(StoreUnavailable, match="locked"):
            call()
        assert LOCK_TIMEOUT <= clock.at - began < LOCK_TIMEOUT + 0.02
        assert not waiting.exists()


def test_a_writer_that_sees_a_waiter_leaves_the_lock_alone_after_its_own_commit(
    store: SQLStore, clock: Clock, waiting: Path
) -> None:
    commit(store, 1)
    commit(store, 2)
    assert clock.slept == []
    announce(waiting, clock)
    commit(store, 3)  # its answers need not wait: the next write does
    assert clock.slept == []
    clock.at += 0.005
    commit(store, 4)
    assert clock.slept == [pytest.approx(PAUSE_SECONDS - 0.005)]
    waiting.unlink()
    commit(store, 5)
    commit(store, 6)
    assert len(clock.slept) == 2  # after number 4, which had seen the file


def test_chores_leave_the_lock_alone_too(store: SQLStore, clock: Clock, waiting: Path) -> None:
    announce(waiting, clock)
    store.probe(1, 0)
    store.take_lease([1], "a", now=0, until=1)
    assert clock.slept == [pytest.approx(PAUSE_SECONDS)]


@pytest.mark.parametrize("age", [LOCK_TIMEOUT + 1.1, -LOCK_TIMEOUT - 1.1])
def test_the_file_of_a_waiter_that_has_died_is_removed_and_nobody_pauses(
    store: SQLStore, clock: Clock, waiting: Path, age: float
) -> None:
    announce(waiting, clock, age)
    commit(store, 1)
    assert not waiting.exists()
    commit(store, 2)
    assert clock.slept == []


def test_a_file_that_cannot_be_made_costs_nothing_but_a_warning(
    store: SQLStore,
    other: sqlite3.Connection,
    clock: Clock,
    waiting: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting.symlink_to("nowhere/at-all")  # neither exists nor can be made
    clock.meanwhile = lambda: other.execute("COMMIT") if other.in_transaction else None
    with store.locked(1):
        pass
    assert "cannot announce" in caplog.text
