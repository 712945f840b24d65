# SPDX-License-Identifier: Apache-2.0
"""The store on SQLite keeps the contract."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conformance.store_sql import SQLStoreContract, assert_unavailable
from tests.support.builders import HOST, begin, node_name
from tests.support.store import Writer, answer, load, picture, settle, snapshots
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Commit, StoreReplaced
from tracker_worker.store.sql.store import SQLStore

# The methods of every_method that only read: in WAL mode a reader needs no lock.
READERS = frozenset(
    {
        "host_names",
        "host",
        "hosts",
        "histories",
        "progress",
        "missing_nodes",
        "load_host",
        "allocations",
        "incoming",
        "moves",
        "untold_moves",
        "billed",
        "usage",
        "closed_periods",
        "answered",
        "streams",
        "streams_without_host",
        "left_streams",
        "outbox",
        "stream_page",
        "backlog",
        "refreshed",
        "dead_letters",
        "refusals",
        "told",
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


class TestReplaced:
    """The file of a database that is open is deleted, or another file gets its name."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "ledger.sqlite"

    @pytest.fixture
    def store(self, path: Path) -> Iterator[SQLStore]:
        store = SQLStore(f"sqlite:///{path}", lock_timeout_seconds=0.02)
        store.start()
        yield store
        store.stop()

    def replace(self, path: Path) -> None:
        """Put a copy of the database in its place, as a restore does."""
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(path.with_name("copy"))) as copy:
            source.backup(copy)
        path.with_name("copy").rename(path)

    @pytest.mark.parametrize("deleted", [True, False])
    def test_a_commit_to_a_file_that_has_gone_raises_before_anything_is_answered(
        self, store: SQLStore, path: Path, deleted: bool
    ) -> None:
        writer = settle(store).put(begin(1, node=node_name(1)))
        store.check()
        if deleted:
            path.unlink()
        else:
            self.replace(path)
        for call in (writer.commit, store.check):
            with pytest.raises(StoreReplaced) as caught:
                call()
            assert (caught.value.path, caught.value.deleted) == (str(path), deleted)
            assert str(path) in str(caught.value)

    def test_a_commit_under_lock_raises_too(self, store: SQLStore, path: Path) -> None:
        writer = settle(store)
        with store.locked(writer.host.id) as locked:
            path.unlink()
            with pytest.raises(StoreReplaced):
                locked.commit(Commit(inbox_rows=[answer()]))

    def test_what_answers_a_read_is_not_read_from_a_file_that_has_gone(self, store: SQLStore, path: Path) -> None:
        settle(store)
        self.replace(path)
        with pytest.raises(StoreReplaced):
            store.refreshed({HOST: {}})

    def test_a_commit_that_fails_says_that_the_file_has_gone(self, store: SQLStore, path: Path) -> None:
        settle(store)
        stale = Writer(store).put(begin(1, node=node_name(1)))
        Writer(store).put(begin(2, node=node_name(1))).commit()
        self.replace(path)
        with pytest.raises(StoreReplaced):
            stale.commit()

    def test_a_directory_that_has_gone_is_a_file_that_has_gone(self, store: SQLStore, path: Path) -> None:
        path.parent.rename(path.parent.with_name("moved"))
        path.parent.write_text("a file in its place")
        with pytest.raises(StoreReplaced) as caught:
            store.check()
        assert caught.value.deleted
        path.parent.unlink()
        path.parent.with_name("moved").rename(path.parent)
        store.check()

    def test_a_file_that_cannot_be_looked_at_is_an_absent_store(self, store: SQLStore, path: Path) -> None:
        kept = path.parent.with_name("kept")
        path.parent.rename(kept)
        path.parent.symlink_to(path.parent)  # ELOOP, which root meets too
        with pytest.raises(StoreUnavailable):
            store.check()
        path.parent.unlink()
        kept.rename(path.parent)

    def test_a_store_that_is_started_again_takes_the_file_as_it_is(self, store: SQLStore, path: Path) -> None:
        settle(store)
        self.replace(path)
        store.stop()
        store.start()
        Writer(store).put(begin(1, node=node_name(1))).commit()
        store.check()

    def test_a_store_that_was_not_started_checks_nothing(self, path: Path) -> None:
        SQLStore(f"sqlite:///{path}").check()
