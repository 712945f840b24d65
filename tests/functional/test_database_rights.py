# SPDX-License-Identifier: Apache-2.0
"""Users of PostgreSQL who do not own the tables, with exactly the grants of doc/admin/rights.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from tests.functional.conftest import HOST, MakeWorker
from tests.functional.test_cli import Operator
from tests.support import stock
from tests.support.builders import instance_dict
from tests.support.deadline import wait_until
from tests.support.doc_pages import DOC, blocks
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker.store.sql import engines, migration

pytestmark = pytest.mark.long

PAGE = DOC / "admin" / "rights.md"
# The names that the page uses.
DATABASE, OWNER, WORKER, READER = "tracker", "tracker", "worker", "reader"
NEW_OBJECTS = "ALTER DEFAULT PRIVILEGES"


def documented(user: str) -> list[str]:
    """The statements of the page for a user, one a line."""
    (block,) = [block for block in blocks(PAGE, "sql") if f"TO {user};" in block.text]
    return [line for line in block.text.splitlines() if line]


class Database:
    """A database with the schema, its owner, and users whose names end like the database's."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = url.rpartition("/")[2]
        self._plain = url.replace("postgresql+psycopg", "postgresql")
        self._owner = self._plain.partition("://")[2].partition(":")[0]
        self._made: list[str] = []
        self.upgrade()

    def upgrade(self) -> None:
        engine = engines.create_engine(self.url)
        migration.upgrade(engine)
        engine.dispose()

    def execute(self, statement: str, *, url: str | None = None) -> list[Any]:
        with psycopg.connect(url or self._plain, autocommit=True) as connection:
            done = connection.execute(sql.SQL(statement))
            return done.fetchall() if done.description else []

    def user(self, name: str) -> str:
        """The name here of a user that the page calls ``name``."""
        return f"{name}_{self.name}"

    def make(self, name: str) -> str:
        """Make a user with the grants of the page, and return the URL with which it connects."""
        user = self.user(name)
        self.execute(f"REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE ROLE {user} LOGIN PASSWORD 'theirs'")
        self._made.append(user)
        for statement in documented(name):
            self.execute(self.here(statement))
        return re.sub(r"://[^@]*@", f"://{user}:theirs@", self.url)

    def here(self, statement: str) -> str:
        """A statement of the page with the names of this database."""
        statement = re.sub(rf"\b(TO|FROM) ({WORKER}|{READER});", lambda to: f"{to[1]} {self.user(to[2])};", statement)
        statement = statement.replace(f"ON DATABASE {DATABASE} ", f"ON DATABASE {self.name} ")
        return statement.replace(f"FOR ROLE {OWNER} ", f"FOR ROLE {self._owner} ")

    def remove_users(self) -> None:
        for user in self._made:
            self.execute(f"DROP OWNED BY {user} CASCADE; DROP ROLE {user}")


@pytest.fixture
def database(postgresql_url: str) -> Iterator[Database]:
    made = Database(postgresql_url)
    yield made
    made.remove_users()


def made_worker(make_worker: MakeWorker, url: str) -> WorkerProcess:
    return make_worker(hosts={HOST: {"n1": NODE}}, options={"database": {"connection": url}})


def test_a_worker_works_with_exactly_the_grants_of_the_page(
    make_worker: MakeWorker, database: Database, client: stock.Client, listener: stock.Listener
) -> None:
    worker = made_worker(make_worker, database.make(WORKER))
    worker.start()
    worker.wait_ready()
    claim = client.call(HOST, "begin_resource_claim", instance=instance_dict(1))
    client.call(HOST, "finish_resource_claim", claim_id=claim["claim_id"])
    client.call(HOST, "update_usage", instance={"uuid": claim["instance_uuid"], "vm_state": "deleted"})
    client.cast(HOST, "finish_resource_claim", wrong=1)
    assert client.call(HOST, "get_notifications", node="n1")["notifications"]
    listener.wait_for(HOST, "n1", 4)
    operator = Operator(worker)
    assert operator.run("node", "drain", "n1", "--reason", "new disks").returncode == 0
    assert operator.run("db", "new-history", "--reason", "a test").returncode == 0
    assert operator.run("db", "check").returncode == 0
    assert worker.terminate() == 0
    assert operator.run("node", "retire", "n1").returncode == 0
    assert operator.run("host", "rename", HOST, "h9").returncode == 0
    for wrong in ("Traceback", "permission denied"):
        assert wrong not in worker.log()


def test_the_grants_hold_for_the_tables_of_a_later_release(database: Database) -> None:
    url = database.make(WORKER).replace("+psycopg", "")
    database.execute("CREATE TABLE of_tomorrow (id serial PRIMARY KEY, text text)")
    assert database.execute("INSERT INTO of_tomorrow (text) VALUES ('a') RETURNING id", url=url) == [(1,)]


def test_a_worker_owns_nothing_and_changes_no_table(database: Database) -> None:
    url = database.make(WORKER).replace("+psycopg", "")
    for statement in (
        "CREATE TABLE mine (id int)",
        "ALTER TABLE nodes ADD COLUMN mine int",
        "DROP TABLE nodes",
        "TRUNCATE nodes",
        "UPDATE alembic_version SET version_num = '0'",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            database.execute(statement, url=url)


def test_a_reader_reads_what_nodes_are_charged_and_changes_nothing(
    make_worker: MakeWorker, database: Database, client: stock.Client
) -> None:
    worker = made_worker(make_worker, database.make(WORKER))
    worker.start()
    worker.wait_ready()
    client.call(HOST, "begin_resource_claim", instance=instance_dict(1))
    url = database.make(READER).replace("+psycopg", "")
    (select,) = [block.text for block in blocks(PAGE, "sql") if block.text.startswith("SELECT")]
    assert database.execute(select, url=url) == [(HOST, "n1", "open", 2, 64, 4096 + 512, 262144)]
    for statement in ("UPDATE nodes SET vcpus = 1", "DELETE FROM hosts", "SELECT * FROM inbox", "SELECT * FROM outbox"):
        with pytest.raises(errors.InsufficientPrivilege):
            database.execute(statement, url=url)


@pytest.mark.parametrize(
    ("revoked", "said"),
    [
        ("USAGE ON SEQUENCE nodes_id_seq", "GRANT USAGE ON SEQUENCE nodes_id_seq TO "),
        ("USAGE ON ALL SEQUENCES IN SCHEMA public", "GRANT USAGE ON SEQUENCE hosts_id_seq TO "),
        ("INSERT, DELETE ON outbox", "GRANT INSERT, DELETE ON outbox TO "),
        ("UPDATE ON nodes", "GRANT UPDATE ON nodes TO "),
        ("ALL ON ALL TABLES IN SCHEMA public", "GRANT SELECT, INSERT, UPDATE, DELETE ON inbox TO "),
        ("SELECT ON alembic_version", "GRANT SELECT ON alembic_version TO "),
        ("USAGE ON SCHEMA public", "GRANT USAGE ON SCHEMA public TO "),
    ],
)
def test_a_start_without_a_right_is_one_sentence_that_says_what_to_grant(
    make_worker: MakeWorker, database: Database, revoked: str, said: str
) -> None:
    worker = made_worker(make_worker, database.make(WORKER))
    user = database.user(WORKER)
    database.execute(f"REVOKE {revoked} FROM {user}")

    assert worker.run() == 1
    (sentence,) = worker.plain_lines()
    assert sentence.startswith("tracker-worker: the user of [database] connection lacks rights: ")
    assert f"{said}{user}" in sentence
    assert "theirs" not in worker.log()
    # What it says is what is missing.
    for grant in sentence.partition(" run: ")[2].split("; "):
        database.execute(grant)
    worker.start()
    worker.wait_ready()


@contextmanager
def without(database: Database, right: str) -> Iterator[None]:
    user = database.user(WORKER)
    database.execute(f"REVOKE {right} FROM {user}")
    yield
    database.execute(f"GRANT {right} TO {user}")


def test_a_right_that_is_taken_away_parks_nothing_and_its_return_lets_requests_go_on(
    make_worker: MakeWorker, database: Database, client: stock.Client
) -> None:
    worker = made_worker(make_worker, database.make(WORKER))
    worker.start()
    worker.wait_ready()
    with without(database, "INSERT ON allocations"):
        client.cast(HOST, "begin_resource_claim", instance=instance_dict(1))
        worker.wait_for_log("permission denied for table allocations")
    wait_until(lambda: client.call(HOST, "list_claims"), "the claim after the right is there again")
    assert Operator(worker).json("dead-letter", "list") == []
    assert "Traceback" not in worker.log()


@pytest.mark.parametrize(
    ("right", "command", "said"),
    [
        ("SELECT ON nodes", ("node", "list"), "permission denied for table nodes"),
        ("SELECT ON alembic_version", ("node", "list"), "GRANT SELECT ON alembic_version"),
        ("INSERT ON outbox", ("node", "drain", "n1", "--reason", "r"), "permission denied for table outbox"),
        ("USAGE ON SEQUENCE histories_number_seq", ("db", "new-history", "--reason", "r"), "GRANT USAGE ON SEQUENCE"),
    ],
)
def test_a_command_without_a_right_is_one_sentence_that_says_what_to_grant(
    make_worker: MakeWorker, database: Database, right: str, command: tuple[str, ...], said: str
) -> None:
    worker = made_worker(make_worker, database.make(WORKER))
    worker.start()
    worker.wait_ready()
    assert worker.terminate() == 0
    with without(database, right):
        sentence = Operator(worker).refuse(*command)
    assert said in sentence
    assert "GRANT " in sentence
    assert "theirs" not in sentence
