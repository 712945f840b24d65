# SPDX-License-Identifier: Apache-2.0
"""A silent PostgreSQL: a caller gets StoreUnavailable in time, and finds a commit that the server executed later."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.store_sql import every_method
from tests.servers import PostgreSQLServer
from tests.support.builders import begin, node_name, uuid
from tests.support.migrated import migrated
from tests.support.store import Writer, answer, load, settle, uuids
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Conflict
from tracker_worker.store.sql import engines
from tracker_worker.store.sql import read_timeout as patience
from tracker_worker.store.sql.store import SQLStore

N1 = node_name(1)


@pytest.fixture
def url(postgresql_url: str) -> str:
    return migrated(postgresql_url)


@pytest.fixture
def store(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SQLStore]:
    monkeypatch.setattr(patience, "ANSWER_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(engines, "CONNECT_TIMEOUT_SECONDS", 2)  # the shortest that psycopg accepts
    store = SQLStore(url)
    store.start()
    yield store
    store.stop()


@pytest.mark.parametrize("name", ["commit", "load_host"])
def test_calls_on_existing_and_new_connections_to_a_silent_server_time_out(
    store: SQLStore, postgresql: PostgreSQLServer, name: str
) -> None:
    call = every_method(store, settle(store)[N1].stream_id)[name]
    load(store)
    with postgresql.frozen():
        with pytest.raises(StoreUnavailable, match="silent"):
            call()
        with pytest.raises(StoreUnavailable, match="timeout"):
            call()
    assert uuids(list(load(store))) == []


def test_a_commit_that_a_silent_server_executes_later_is_not_repeated(
    store: SQLStore, postgresql: PostgreSQLServer
) -> None:
    """The statement waits in the socket of a session that the client has left."""
    settle(store)
    lost, again = Writer(store).put(begin(1, node=N1)), Writer(store).put(begin(1, node=N1))
    with postgresql.frozen(), pytest.raises(StoreUnavailable, match="silent"):
        lost.commit(answer("u-1"))
    try:
        again.commit(answer("u-1"))
    except Conflict:
        assert store.answered(["u-1"])
    assert uuids(list(load(store))) == [uuid(1)]
    assert load(store).node(N1).sequence == 2


def test_a_slow_server_that_keeps_answering_does_not_time_out(store: SQLStore, url: str) -> None:
    """Ten rows of 64 kB, one every 0.2 s, take longer than the answer timeout, but no single pause does."""
    engine = engines.create_engine(url, patient=False)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT repeat('x', 65536), pg_sleep(0.2) FROM generate_series(1, 10)"
        ).fetchall()
    engine.dispose()
    assert len(rows) == 10
