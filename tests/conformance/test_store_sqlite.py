# SPDX-License-Identifier: Apache-2.0
"""The store on SQLite keeps the contract."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conformance.store_sql import SQLStoreContract, assert_unavailable
from tests.support.builders import begin, node_name
from tests.support.store import load, picture, settle, snapshots
from tracker_worker.store.sql.store import SQLStore

# The methods of every_method that only read: in WAL mode a reader needs no lock.
READERS = frozenset(
    {
        "host_names",
        "hosts",
        "histories",
        "load_host",
        "allocations",
        "generations",
        "answered",
        "streams",
        "outbox",
        "backlog",
        "refreshed",
        "dead_letters",
    }
)


class TestSQLiteStore(SQLStoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock of the database, as another process in its transaction does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[SQLStore]:
    store = SQLStore(f"sqlite:///{tmp_path / 'ledger.sqlite'}", lock_timeout_seconds=0.02)
    store.start()
    yield store
    store.stop()


def test_while_another_process_holds_the_lock_writes_time_out_and_reads_work(
    impatient: SQLStore, tmp_path: Path
) -> None:
    writer = settle(impatient)
    before = picture(impatient)
    with locked(tmp_path / "ledger.sqlite"):
        assert_unavailable(impatient, writer[node_name(1)].stream_id, but=READERS)
        assert picture(impatient) == before


def test_a_commit_that_timed_out_succeeds_after_the_lock_is_released(impatient: SQLStore, tmp_path: Path) -> None:
    writer = settle(impatient)
    with locked(tmp_path / "ledger.sqlite"):
        assert_unavailable(impatient, writer[node_name(1)].stream_id, but=READERS)
    writer.put(begin(1, node=node_name(1))).commit()
    assert snapshots(load(impatient)) == snapshots(writer.host)
