# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL that says nothing: whoever waits for it is told in time, and whatever it did after all is found."""

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
    monkeypatch.setattr(engines, "CONNECT_TIMEOUT_SECONDS", 2)  # psycopg's least
    store = SQLStore(url)
    store.start()
    yield store
    store.stop()


@pytest.mark.parametrize("name", ["commit", "load_host"])
def test_who_has_a_connection_gives_up_and_so_does_who_makes_one(
    store: SQLStore, postgresql: PostgreSQLServer, name: str
) -> None:
    call = every_method(store, settle(store)[N1].id)[name]
    with postgresql.frozen():
        with pytest.raises(StoreUnavailable, match="silent"):
            call()
        with pytest.raises(StoreUnavailable, match="timeout"):
            call()
    assert uuids(list(load(store))) == []


def test_what_it_did_when_it_went_on_is_found_and_not_done_again(store: SQLStore, postgresql: PostgreSQLServer) -> None:
    """The statement waits in the socket of a session that nobody listens to any more."""
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


def test_one_that_is_slow_and_says_something_is_waited_for(store: SQLStore, url: str) -> None:
    """Ten rows of 64 kB, one every 0.2 s: more than the silence that is put up with, and never silent."""
    engine = engines.create_engine(url, patient=False)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT repeat('x', 65536), pg_sleep(0.2) FROM generate_series(1, 10)"
        ).fetchall()
    engine.dispose()
    assert len(rows) == 10
