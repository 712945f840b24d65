# SPDX-License-Identifier: Apache-2.0
"""The store on PostgreSQL keeps the contract, and works again after a restart of its server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import Literal

import psycopg
import pytest
from msgspec.structs import replace

from tests.conformance.store_sql import SQLStoreContract, assert_unavailable, every_method, lock_and_leave
from tests.servers import PostgreSQLServer
from tests.support.builders import begin, node_name, uuid
from tests.support.migrated import migrated
from tests.support.store import Writer, answer, load, note, picture, settle, snapshots, uuids
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Commit, Conflict, HostLocked, Unstorable
from tracker_worker.store.sql import engines
from tracker_worker.store.sql.store import SQLStore

N1 = node_name(1)


@pytest.fixture
def url(postgresql_url: str) -> str:
    """The URL of a database that has the schema."""
    return migrated(postgresql_url)


class TestPostgreSQLStore(SQLStoreContract):
    @pytest.fixture
    def url(self, url: str) -> str:
        return url


@contextmanager
def opened(url: str, *, lock_timeout_seconds: float = 10) -> Iterator[SQLStore]:
    store = SQLStore(url, lock_timeout_seconds=lock_timeout_seconds)
    store.start()
    try:
        yield store
    finally:
        store.stop()


@contextmanager
def session(url: str) -> Iterator[psycopg.Connection]:
    """A transaction of another session, which is rolled back at the end."""
    with psycopg.connect(url.replace("+psycopg", "", 1)) as connection:
        yield connection
        connection.rollback()


def wait_for_a_lock_queue(connection: psycopg.Connection) -> None:
    """Wait until another session of this database waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    for _ in range(1000):
        connection.execute("SELECT pg_stat_clear_snapshot()")
        row = connection.execute(waiting).fetchone()
        if row is not None and row[0]:
            return
        Event().wait(0.01)
    pytest.fail("nobody waits for the lock")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_every_method_is_unavailable_while_the_server_is_stopped_and_works_after_its_start(
    postgresql: PostgreSQLServer, url: str, mode: Literal["fast", "immediate"]
) -> None:
    with opened(url) as store:
        writer = settle(store).put(begin(1, node=N1)).commit(answer("u-1"))
        before = picture(store, "u-1")
        postgresql.stop(mode=mode)
        assert_unavailable(store, writer[N1].stream_id)
        assert_unavailable(store, writer[N1].stream_id)
        postgresql.start()
        assert picture(store, "u-1") == before
        writer.put(begin(2, node=N1)).commit()
        assert snapshots(load(store)) == snapshots(writer.host)
        for call in every_method(store, writer[N1].stream_id).values():
            call()


@pytest.mark.parametrize("first", ["load_host", "commit"])
def test_a_restart_of_the_server_fails_one_call_and_no_later_call(
    postgresql: PostgreSQLServer, url: str, first: str
) -> None:
    with opened(url) as store:
        writer = settle(store)
        load(store)
        postgresql.restart()  # which ends the connection of commits and that of reads
        with pytest.raises(StoreUnavailable):
            every_method(store, writer[N1].stream_id)[first]()
        for call in every_method(store, writer[N1].stream_id).values():
            call()


def test_the_unavailable_error_names_the_reason_and_not_the_password(postgresql: PostgreSQLServer, url: str) -> None:
    with opened(url) as store:
        settle(store)
        postgresql.stop()
        for _ in range(2):
            with pytest.raises(StoreUnavailable) as caught:
                store.host_names()
            assert postgresql.password not in str(caught.value)
        assert "refused" in str(caught.value)
        postgresql.start()


def test_a_commit_that_times_out_on_a_lock_has_written_nothing(url: str) -> None:
    with opened(url, lock_timeout_seconds=0.05) as store:
        settle(store, nodes=2)
        before = picture(store, "u-1")
        with session(url) as other:
            other.execute("SELECT 1 FROM nodes WHERE name = 'node-2' FOR UPDATE")
            late = Writer(store).put(begin(1, node=N1)).put(begin(2, node=node_name(2)))
            with pytest.raises(StoreUnavailable):
                late.commit(answer("u-1"))
            assert picture(store, "u-1") == before
        Writer(store).put(begin(1, node=N1)).put(begin(2, node=node_name(2))).commit(answer("u-1"))
        assert uuids(list(load(store))) == [uuid(1), uuid(2)]


def test_a_commit_that_a_deadlock_rolls_back_is_a_conflict(url: str) -> None:
    with opened(url) as store, session(url) as other, ThreadPoolExecutor(max_workers=1) as pool:
        writer = settle(store)
        before = picture(store, "u-1", "u-2")
        # The deadlock check of the store's session must be the first to run.
        other.execute("SET deadlock_timeout = '60s'")
        insert = "INSERT INTO inbox (unique_id, host_id, reply, received_at) VALUES (%s, 1, '', 0)"
        other.execute(insert, ["u-2"])
        commit = pool.submit(writer.put(begin(1, node=N1)).commit, answer("u-1"), answer("u-2"))
        wait_for_a_lock_queue(other)
        other.execute(insert, ["u-1"])
        with pytest.raises(Conflict):
            commit.result(timeout=60)
        other.rollback()
        assert picture(store, "u-1", "u-2") == before


def test_a_session_has_timeouts_for_locks_and_idle_transactions(url: str) -> None:
    engine = engines.create_engine(url, lock_timeout_seconds=1.5)
    with engine.connect() as connection:
        for setting, value in (
            ("lock_timeout", "1500ms"),
            ("idle_in_transaction_session_timeout", "20s"),
            ("application_name", "tracker-worker"),
        ):
            assert connection.exec_driver_sql(f"SHOW {setting}").scalar_one() == value
    engine.dispose()


@pytest.mark.parametrize("row", ["hosts WHERE name = 'host-1'", "nodes WHERE name = 'node-1'"])
def test_a_row_that_another_writer_holds_too_long_is_told_from_an_absent_store(url: str, row: str) -> None:
    with opened(url, lock_timeout_seconds=0.05) as store, session(url) as other:
        writer = settle(store).put(begin(1, node=N1))
        other.execute(f"SELECT 1 FROM {row} FOR UPDATE")
        calls = [partial(lock_and_leave, store)]
        calls.append(partial(store.probe, 1, 0) if row.startswith("hosts") else writer.commit)
        for call in calls:
            with pytest.raises(HostLocked) as caught:
                call()
            assert type(caught.value).__name__ == "StoreUnavailable"  # what a reply calls it
            assert caught.value.kwargs.keys() == {"reason"}
        assert store.host_names() == ["host-1"]


def test_a_database_that_became_read_only_is_absent(url: str) -> None:
    with opened(url) as store, session(url) as other:
        writer = settle(store).put(begin(1, node=N1))
        other.autocommit = True
        other.execute("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on")
        try:
            store.stop()  # sessions that are opened from now on cannot write
            for call in (writer.commit, partial(store.probe, 1, 0), partial(lock_and_leave, store)):
                with pytest.raises(StoreUnavailable, match="read-only"):
                    call()
        finally:
            other.execute("SET default_transaction_read_only = off")
            other.execute("ALTER ROLE CURRENT_USER RESET default_transaction_read_only")


@pytest.mark.parametrize("text", ["nul \0", "surrogate \ud800", "x" * 300])
def test_text_that_postgresql_cannot_keep_is_unstorable(url: str, text: str) -> None:
    with opened(url) as store:
        writer = settle(store)
        before = picture(store)
        with pytest.raises(Unstorable):
            store.commit(Commit(notifications=[note(writer[N1], 7, event_type=text)]))
        with pytest.raises(Unstorable):
            store.count_attempt(text, 0)
        with pytest.raises(Unstorable):
            store.commit(Commit(inbox_rows=[answer("u-1"), replace(answer("u-2"), unique_id=text)]))
        with store.locked(1) as locked, pytest.raises(Unstorable):
            locked.commit(Commit(inbox_rows=[replace(answer("u-2"), unique_id=text)]))
        assert picture(store) == before
        writer.put(begin(1, node=N1)).commit()
