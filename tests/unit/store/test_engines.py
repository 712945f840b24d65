# SPDX-License-Identifier: Apache-2.0
"""The URLs that are accepted, and the settings of connections to SQLite."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.store import at_once
from tracker_worker.errors import ConfigurationError
from tracker_worker.store.sql import engines
from tracker_worker.store.sql.location import url_without_password
from tracker_worker.store.sql.store import SQLStore

POSTGRESQL = "postgresql+psycopg://tracker:s3cret@db.example.org:5433/ledger"


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = engines.create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not a usable URL"),
        ("ledger.sqlite", "not a usable URL"),
        ("/var/lib/tracker/ledger.sqlite", "not a usable URL"),
        ("postgresql://tracker:s3cret@db:port/ledger", "not a usable URL"),
        ("postgresql://tracker:s3cret", "not a usable URL"),
        ("postgresql://tracker:s3:cret@db:1:2/ledger", "not a usable URL"),
        ("postgresql://tracker:pa@s3cret@db/ledger", "%40"),
        ("postgresql://tra/cker:s3cret@db/ledger", "%2F"),
        ("postgresql://tracker:p/a?x@s3cret#@db/ledger", "%40"),
        ("mysql+pymysql://tracker:s3cret@db/ledger", "is for mysql+pymysql"),
        ("oracle://tracker:s3cret@db/ledger", "is for oracle"),
        ("unheard-of://tracker:s3cret@db/ledger", "connection"),
        ("postgresql+asyncpg://tracker:s3cret@db/ledger", "is for postgresql+asyncpg"),
        ("postgresql+psycopg2://tracker:s3cret@db/ledger", "is for postgresql+psycopg2"),
        ("sqlite+aiosqlite:////var/lib/tracker/ledger.sqlite", "is for sqlite+aiosqlite"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///file:ledger?mode=memory&cache=shared&uri=true", "names no file"),
    ],
)
def test_an_unusable_url_is_refused_in_one_sentence(url: str, says: str) -> None:
    for make in (engines.create_engine, SQLStore):
        with pytest.raises(ConfigurationError) as caught:
            make(url)
        message = str(caught.value)
        assert message.startswith("[database] connection ")
        assert says in message
        assert "\n" not in message
        assert "s3cret" not in message


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql"])
def test_a_postgresql_url_uses_psycopg(scheme: str) -> None:
    engine = engines.create_engine(POSTGRESQL.replace("postgresql+psycopg", scheme))
    assert (engine.dialect.name, engine.driver) == ("postgresql", "psycopg")
    assert (engine.url.host, engine.url.port, engine.url.database) == ("db.example.org", 5433, "ledger")


def test_a_missing_driver_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError) as caught:
        engines.create_engine(POSTGRESQL)
    assert (
        "(psycopg): install the package with its extra postgresql, in its source tree: pip install '.[postgresql]'"
        in str(caught.value)
    )


def test_an_engine_hides_the_password() -> None:
    engine = engines.create_engine(POSTGRESQL)
    assert "s3cret" not in repr(engine) + str(engine.url)


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 1500)],  # 2 is FULL
)
def test_every_connection_to_sqlite_has_its_settings(sqlite: sa.Engine, pragma: str, value: object) -> None:
    with sqlite.connect() as one, sqlite.connect() as two:
        for connection in (one, two):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value


def test_a_connection_waits_for_a_new_file_that_another_connection_locks(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")  # SQLite does not wait for this lock to change the journal mode
    engine = engines.create_engine(f"sqlite:///{path}", lock_timeout_seconds=0.1)
    with pytest.raises(sa.exc.OperationalError, match="locked"):
        engine.connect()
    engine.dispose()
    engine = engines.create_engine(f"sqlite:///{path}", lock_timeout_seconds=30)
    end = threading.Timer(0.1, writer.execute, ["COMMIT"])
    end.start()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    end.join()
    engine.dispose()
    writer.close()


def test_the_lock_timeout_of_sqlite_is_set(tmp_path: Path) -> None:
    engine = engines.create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite'}", lock_timeout_seconds=0.25)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 250
    engine.dispose()


def test_a_writer_on_sqlite_has_its_lock_from_the_beginning(sqlite: sa.Engine, tmp_path: Path) -> None:
    impatient = engines.create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite'}", lock_timeout_seconds=0)
    with sqlite.connect().execution_options(tracker_writes=True) as writer, writer.begin():
        with impatient.connect() as reader, reader.begin():
            assert reader.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one() == 0
        with (
            pytest.raises(sa.exc.OperationalError, match="locked"),
            impatient.connect().execution_options(tracker_writes=True) as late,
            late.begin(),
        ):
            pytest.fail("two writers at once")
    impatient.dispose()


def test_a_rolled_back_transaction_on_sqlite_leaves_no_table(sqlite: sa.Engine) -> None:
    with sqlite.connect() as connection:
        with connection.begin() as transaction:
            connection.exec_driver_sql("CREATE TABLE letters (body TEXT)")
            transaction.rollback()
        assert sa.inspect(connection).get_table_names() == []


def test_threads_may_share_an_engine_on_sqlite(sqlite: sa.Engine) -> None:
    def answer() -> object:
        with sqlite.connect() as connection:
            return connection.exec_driver_sql("SELECT 1").scalar_one()

    assert at_once(*[answer] * 8) == [1] * 8


def test_a_url_in_a_message_has_neither_its_password_nor_its_query() -> None:
    url = sa.make_url("postgresql+psycopg://tracker:s3#c/r?et[@db/ledger?password=s3cret&sslpassword=s3cret")
    assert url_without_password(url) == "postgresql+psycopg://tracker:***@db/ledger"
