# SPDX-License-Identifier: Apache-2.0
"""The waits of connections, in virtual time."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from tracker_worker.store.sql import engines, read_timeout


class Clock:
    """Seconds that pass only in ``sleep``."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def engine_on(path: Path, clock: Clock, *, lock_timeout_seconds: float) -> sa.Engine:
    return engines.create_engine(
        f"sqlite:///{path}", lock_timeout_seconds=lock_timeout_seconds, monotonic=clock.monotonic, sleep=clock.sleep
    )


def test_a_first_connection_to_a_locked_sqlite_file_fails_after_the_lock_timeout(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.sqlite", Clock()
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        engine = engine_on(path, clock, lock_timeout_seconds=0.5)
        with pytest.raises(sa.exc.OperationalError, match="locked"):
            engine.connect()
        engine.dispose()
    assert clock.at == pytest.approx(1000.5, abs=0.02)


def test_a_first_connection_to_an_sqlite_file_succeeds_when_the_lock_is_released(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")

        class Releasing(Clock):
            def sleep(self, seconds: float) -> None:
                super().sleep(seconds)
                if self.at > 1000.1 and writer.in_transaction:
                    writer.execute("COMMIT")

        clock = Releasing()
        engine = engine_on(path, clock, lock_timeout_seconds=0.5)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        engine.dispose()
    assert clock.at < 1000.2


def waiting(answers: int) -> Generator[str, Any, str]:
    """A wait in psycopg's protocol that ends after ``answers`` events."""
    while answers:
        if (yield "readable"):
            answers -= 1
    return "the answer"


def test_a_wait_for_a_silent_server_ends_after_the_answer_timeout() -> None:
    clock, closed = Clock(), []
    wait = read_timeout.bounded(waiting(1), lambda: closed.append(clock.at), monotonic=clock.monotonic)
    assert next(wait) == "readable"
    for _ in range(read_timeout.ANSWER_TIMEOUT_SECONDS):
        clock.sleep(1)
        wait.send(None)
    clock.sleep(1)
    assert closed == []
    with pytest.raises(psycopg.OperationalError, match="silent"):
        wait.send(None)
    assert closed == [clock.at]


def test_a_server_that_keeps_sending_does_not_time_out() -> None:
    clock, closed = Clock(), []
    wait = read_timeout.bounded(waiting(5), lambda: closed.append(clock.at), monotonic=clock.monotonic)
    next(wait)
    for _ in range(4):
        clock.sleep(read_timeout.ANSWER_TIMEOUT_SECONDS)
        wait.send(None)
        wait.send("readable")
    with pytest.raises(StopIteration) as end:
        wait.send("readable")
    assert end.value.value == "the answer"
    assert closed == []
