# SPDX-License-Identifier: Apache-2.0
"""What ``check`` finds in the database, and that its cures change it."""

from __future__ import annotations

import sqlalchemy as sa

from tests.support.builders import NOW, inventory
from tests.support.checking import Checker, Operator
from tests.support.store import TOPIC, Writer, register
from tests.unit.cli.conftest import Cli
from tracker_worker import threads
from tracker_worker.domain.commands import ReportList, ReportNode
from tracker_worker.domain.values import SECOND
from tracker_worker.store.base import DeadLetterRow
from tracker_worker.store.sql import migration
from tracker_worker.store.sql.store import SQLStore

LETTER = DeadLetterRow(
    host="host-1", parked_at=NOW, reason="r", exchange="", routing_key="k", properties=b"", headers=b"", body=b"body"
)


def lease(store: SQLStore, *hosts: int, **options: int) -> None:
    """A worker serves these hosts."""
    now = threads.now_microseconds()
    store.take_lease(list(hosts), "worker", now=now, until=now + 15 * SECOND, **options)


def test_a_database_that_is_not_there_is_a_warning_until_it_is_made(checker: Checker, operator: Operator) -> None:
    cure = checker.one("database", "warning", "there is no database", "[tracker] state_path", "not checked: ", "schema")
    operator.apply(cure)
    assert checker.problems("schema") == []


def test_an_old_schema_is_an_error_until_it_is_upgraded(checker: Checker, operator: Operator, store: SQLStore) -> None:
    migration.downgrade(store.engine, "0006")
    cure = checker.one("schema", "error", f"at revision 0006, not at {migration.head()}")
    operator.apply(cure)
    assert checker.problems("schema") == []


def test_a_schema_of_a_newer_release_is_an_error_that_names_both_revisions(checker: Checker, store: SQLStore) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    checker.one("schema", "error", "revision 9999", f"revision {migration.head()}")


def test_a_host_of_the_configuration_that_the_database_does_not_have_is_an_error(
    checker: Checker, operator: Operator, store: SQLStore
) -> None:
    assert checker.one("hosts", "error", "not in the database", "host-1").endswith(" serve")
    lease(store, register(store))
    assert checker.problems("hosts") == []


def test_a_host_of_the_configuration_that_nobody_serves_is_an_error(
    checker: Checker, store: SQLStore, ledger: Writer
) -> None:
    assert checker.one("hosts", "error", "no worker serves 1 host of [tracker] hosts: host-1").endswith(" serve")
    lease(store, ledger.host.id)
    assert checker.problems("hosts") == []


def test_another_host_that_nobody_serves_is_a_warning_until_it_is_forgotten(
    checker: Checker, operator: Operator, store: SQLStore, ledger: Writer
) -> None:
    lease(store, ledger.host.id)
    register(store, "gone")
    operator.apply(checker.one("hosts", "warning", "host gone", "0 instances on 0 nodes"))
    assert checker.problems("hosts") == []
    assert store.host_names() == ["host-1"]


def test_another_host_with_instances_is_to_be_served(
    checker: Checker, operator: Operator, store: SQLStore, ledger: Writer
) -> None:
    lease(store, register(store, "host-0"))
    operator._configure("tracker", "hosts", "host-0")
    cure = checker.one("hosts", "warning", "host host-1", "3 instances on 2 nodes")
    assert cure == "[tracker] hosts = host-0, host-1"
    operator.apply(cure)
    checker.one("hosts", "error", "host-1")  # it is the worker's now, which has yet to be started
    lease(store, ledger.host.id)
    assert checker.problems("hosts") == []


def test_nodes_whose_driver_is_silent_or_does_not_list_them_are_a_warning_until_it_answers(
    checker: Checker, ledger: Writer
) -> None:
    lists = [ReportList(nodes=frozenset(nodes)) for nodes in (("node-2",), ("node-1", "node-2"))]
    ledger.put(lists[0]).put(ReportNode(node="node-2", inventory=None, failure="no route")).commit()
    cure = checker.one(
        "nodes", "warning", "2 nodes of 1 host", "host-1/node-1 is missing (the", "host-1/node-2 is stale (no route)"
    )
    assert cure.endswith(" audit --host host-1")
    # That command asks the driver again; its answers are:
    ledger.put(lists[1]).put(ReportNode(node="node-2", inventory=inventory())).commit()
    assert checker.problems("nodes") == []


def test_notifications_that_wait_for_too_long_are_a_warning(checker: Checker, store: SQLStore, ledger: Writer) -> None:
    assert checker.one(
        "outbox_age", "warning", "5 notifications of 2 nodes", TOPIC, "60 s (--max-outbox-age)"
    ).endswith(
        " serve"  # nobody publishes them
    )
    lease(store, ledger.host.id)
    assert checker.one("outbox_age", "warning").endswith(" outbox status")
    assert checker.problems("outbox_age", "--max-outbox-age", "999999999") == []


def test_a_notification_that_the_broker_refuses_is_an_error_until_it_is_skipped(
    checker: Checker, operator: Operator, store: SQLStore, ledger: Writer
) -> None:
    ledger.commit(cursors={ledger["node-2"].stream_id: 1})
    store.mark_refused(ledger["node-2"].stream_id, TOPIC, 2, "message size 9 is larger")
    operator.apply(
        checker.one(
            "outbox_refused", "error", "notification 2 of host-1/node-2", "message size 9", "1 later one behind"
        )
    )
    assert checker.problems("outbox_refused") == []


def test_a_worker_that_the_broker_has_blocked_is_an_error(checker: Checker, store: SQLStore, ledger: Writer) -> None:
    lease(store, ledger.host.id, blocked_since=threads.now_microseconds() - 100 * SECOND)
    assert checker.one("worker_blocked", "error", "1 host, host-1", "10") == "rabbitmq-diagnostics alarms"
    lease(store, ledger.host.id)
    assert checker.problems("worker_blocked") == []


def test_dead_letters_of_the_database_are_a_warning(checker: Checker, store: SQLStore, cli: Cli) -> None:
    store.keep_dead_letters([LETTER, LETTER])
    cure = checker.one(
        "kept_dead_letters", "warning", "2 dead letters", f"({2 * LETTER.size} bytes)", "dead-letter purge"
    )
    assert cure.endswith(" dead-letter replay --all")
    store.drop_dead_letters([number for number, _ in store.dead_letters(9)])
    assert checker.problems("kept_dead_letters") == []


def test_a_file_that_is_no_database_is_an_error(checker: Checker, cli: Cli) -> None:
    cli.state.mkdir()
    cli.database.write_bytes(b"no database" * 1000)
    assert checker.one("database", "error", "not a database", "not checked: ").startswith("sqlite3 ")
