# SPDX-License-Identifier: Apache-2.0
"""Wrong set-ups of PostgreSQL: each is found by ``check``, beside a broker that is checked as well, and its cure works."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.functional.installation import Installation
from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.servers.binaries import find_postgresql
from tracker_worker.store.sql import engines, migration

pytestmark = pytest.mark.long

ROLE = "restricted"


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[sa.Engine]:
    """The database as its owner has it, with the schema of this release."""
    engine = engines.create_engine(postgresql_url)
    migration.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def installation(
    tmp_path: Path, rabbitmq: RabbitMQServer, broker_vhost: str, postgresql: PostgreSQLServer, postgresql_url: str
) -> Iterator[Installation]:
    """An installation on the database, whose worker is not started."""
    made = Installation(
        tmp_path,
        rabbitmq,
        transport_url=broker_vhost,
        options={"database": {"connection": postgresql_url}},
        database=postgresql,
    )
    yield made
    made.close()


@pytest.fixture
def restricted(installation: Installation, engine: sa.Engine) -> Iterator[Installation]:
    """The same with a role that may do to the tables all that a worker does."""
    execute(
        engine,
        f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {ROLE}",
    )
    url = engine.url.set(username=ROLE, password="secret").render_as_string(hide_password=False)
    installation.configure({"database": {"connection": url}})
    yield installation
    installation.close()
    execute(engine, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")


def execute(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def run(installation: Installation, cure: str) -> None:
    """Run one of PostgreSQL's programs, as a cure names it."""
    program, *words = shlex.split(cure)
    directory = find_postgresql()
    assert directory is not None
    environment = {**os.environ, **installation.checker.environment}
    subprocess.run([str(directory / program), *words], env=environment, check=True, timeout=60, capture_output=True)


def test_a_server_that_does_not_run_is_an_error_and_the_broker_is_checked(
    installation: Installation, postgresql: PostgreSQLServer, engine: sa.Engine
) -> None:
    engine.dispose()
    postgresql.stop()
    found = {finding["name"]: finding for finding in installation.checker.findings()}
    assert found["database"]["level"] == "error"
    assert "not checked: database_rights, schema" in found["database"]["message"]
    assert found["database"]["cure"] == "systemctl start postgresql"
    assert postgresql.password not in str(found)
    assert [found[name]["level"] for name in ("broker", "broker_rights", "declarations")] == ["ok"] * 3
    postgresql.start()
    assert installation.checker.problems("database") == []


def test_a_database_without_tables_is_an_error_until_it_is_upgraded(installation: Installation) -> None:
    installation.cured("schema", "error", "the database schema is missing")
    assert installation.checker.problems("database_rights") == []


def test_a_database_that_is_not_there_is_an_error_until_it_is_made(
    installation: Installation, postgresql: PostgreSQLServer, engine: sa.Engine
) -> None:
    url = engine.url.set(database="unmade").render_as_string(hide_password=False)
    installation.configure({"database": {"connection": url}})
    cure = installation.checker.one("database", "error", '"unmade" does not exist', "[database] connection")
    run(installation, f"{cure} --username {postgresql.user}")
    try:
        installation.cured("schema", "error", "missing")
        assert installation.checker.problems("database") == []
    finally:
        postgresql.drop_database(url)


def test_a_wrong_password_is_an_error_until_the_role_has_it(restricted: Installation, engine: sa.Engine) -> None:
    execute(engine, f"ALTER ROLE {ROLE} PASSWORD 'another'")
    cure = restricted.checker.one("database", "error", "password authentication failed", ROLE)
    assert shlex.split(cure)[-1] == f'\\password "{ROLE}"'  # it asks for the password
    assert "secret" not in cure
    execute(engine, f"ALTER ROLE {ROLE} PASSWORD 'secret'")
    assert restricted.checker.problems("database") == []


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        ("REVOKE INSERT, DELETE ON outbox FROM restricted", "INSERT, DELETE on outbox"),
        ("REVOKE USAGE ON SEQUENCE streams_id_seq FROM restricted", "USAGE on the sequence streams_id_seq"),
        ("REVOKE SELECT ON alembic_version FROM restricted", "SELECT on alembic_version"),
        ("REVOKE USAGE ON SCHEMA public FROM public", "USAGE on the schema public"),
    ],
)
def test_a_right_that_is_missing_is_an_error_until_it_is_granted(
    taken: str, words: str, restricted: Installation, engine: sa.Engine
) -> None:
    assert restricted.checker.problems("database_rights") == []
    execute(engine, taken)
    cure = restricted.checker.one(
        "database_rights", "error", f"user {ROLE} of [database] connection lacks 1 right", words
    )
    run(restricted, cure)
    assert restricted.checker.problems("database_rights") == []
    assert restricted.checker.problems("schema") == []


def test_the_rights_that_are_asked_for_are_enough_for_a_worker(restricted: Installation) -> None:
    restricted.begin()
    assert restricted.checker.problems("database_rights") == []
    assert restricted.checker.problems("hosts") == []


def test_a_clock_that_differs_is_a_warning_until_it_is_right(installation: Installation, engine: sa.Engine) -> None:
    user, database = engine.url.username, engine.url.database
    execute(
        engine,
        "CREATE SCHEMA skewed",
        "CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
        "$$SELECT pg_catalog.clock_timestamp() - interval '5 seconds'$$",
        f"ALTER ROLE {user} IN DATABASE {database} SET search_path = skewed, pg_catalog, public",
    )
    cure = installation.checker.one("clock", "warning", "5.0 s behind", "more than 2 s")
    assert cure == "timedatectl set-ntp true"
    execute(engine, f"ALTER ROLE {user} IN DATABASE {database} RESET search_path")
    assert installation.checker.problems("clock") == []
