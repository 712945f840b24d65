# SPDX-License-Identifier: Apache-2.0
"""The migrations on PostgreSQL; a start of the store does not run them there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest
import sqlalchemy as sa

from tests.servers import PostgreSQLServer
from tests.servers.ports import Ports
from tests.unit.store.identity import IdentityContract
from tests.unit.store.migrations import refusal, tables
from tracker_worker.store.sql import engines, migration
from tracker_worker.store.sql.store import SQLStore


class TestPostgreSQLMigrations(IdentityContract):
    @pytest.fixture
    def url(self, postgresql_url: str) -> str:
        return postgresql_url

    @pytest.fixture
    def other_url(self, postgresql: PostgreSQLServer, postgresql_url: str) -> Iterator[str]:
        url = postgresql.create_database()
        yield url
        postgresql.drop_database(url)

    def test_a_start_without_the_schema_is_refused_and_changes_nothing(self, url: str, engine: sa.Engine) -> None:
        store = SQLStore(url)
        message = refusal(store.start)
        assert message == (
            f"the database schema is missing, not at {migration.head()}: run 'tracker-worker db upgrade'"
        )
        assert tables(engine) == set()
        store.stop()

    def test_a_start_on_an_old_revision_is_refused(self, engine: sa.Engine) -> None:
        migration.upgrade(engine, "0001")
        message = refusal(partial(migration.ensure_schema, engine))
        assert message == (
            f"the database schema is at revision 0001, not at {migration.head()}: run 'tracker-worker db upgrade'"
        )


def test_an_unreachable_server_is_an_error_without_the_password() -> None:
    with closing(Ports()) as nobody:
        engine = engines.create_engine(f"postgresql+psycopg://tracker:secret@127.0.0.1:{nobody.first}/ledger")
        for call in (migration.current, migration.upgrade, migration.ensure_schema):
            message = refusal(partial(call, engine))
            assert "refused" in message
            assert "secret" not in message


def test_a_wrong_password_and_a_missing_database_are_errors(postgresql: PostgreSQLServer, postgresql_url: str) -> None:
    for url, why in (
        (postgresql_url.replace(postgresql.password, "wr0ng-s3cret"), "password authentication failed"),
        (postgresql_url + "_not", "does not exist"),
    ):
        message = refusal(partial(migration.current, engines.create_engine(url)))
        assert why in message
        assert "wr0ng-s3cret" not in message
        assert postgresql.password not in message
