# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker db``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.store import Writer, settle
from tests.unit.cli.conftest import Cli
from tracker_worker.domain.views import iso
from tracker_worker.store.sql import engines, migration
from tracker_worker.store.sql.store import SQLStore


def _stamp(cli: Cli, revision: str) -> None:
    engine = engines.create_engine(f"sqlite:///{cli.database}")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    engine.dispose()


def test_upgrade_creates_an_sqlite_database(cli: Cli) -> None:
    assert cli.succeed("db", "upgrade") == f"The schema is at revision {migration.head()} now; it was at none.\n"
    assert cli.database.is_file()
    assert cli.succeed("db", "upgrade") == f"The schema is at revision {migration.head()} already.\n"


def test_an_upgraded_database_passes_the_check(cli: Cli) -> None:
    cli.succeed("db", "upgrade")
    (history,) = cli.json("db", "history")
    assert cli.succeed("db", "check") == f"The schema is what this release needs: ledger {history['ledger_id']}\n"
    assert cli.json("db", "current") == {"current": migration.head(), "head": migration.head()}
    assert migration.head() in cli.succeed("db", "current")


def test_the_check_names_hosts_that_nobody_serves(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    settle(store, host="host-2", nodes=1)
    cli.configure(f"[tracker]\nstate_path = {cli.state}\nhosts = host-2\n")
    done = cli.run("db", "check")
    assert done.exit_code == 0
    assert done.stderr == "WARNING: hosts of the database that no worker serves: host-1 (3 instances)\n"
    (host,) = (record for record in store.hosts() if record.name == "host-1")
    store.take_lease([host.id], "worker", now=store.time(), until=store.time() + 15_000_000)
    assert cli.run("db", "check").stderr == ""


def test_upgrade_stops_at_the_given_revision(cli: Cli) -> None:
    cli.succeed("db", "upgrade", "--revision", "0001")
    assert cli.json("db", "current")["current"] == "0001"


def test_an_unknown_revision_is_refused(cli: Cli) -> None:
    assert "no-such" in cli.refuse("db", "upgrade", "--revision", "no-such")


@pytest.mark.parametrize("command", ["check", "current"])
def test_a_missing_database_is_an_error_and_is_not_created(cli: Cli, command: str) -> None:
    assert cli.refuse("db", command).startswith("there is no database ")
    assert not cli.state.exists()


def test_the_check_of_a_missing_schema_names_the_upgrade_command(cli: Cli, store: SQLStore) -> None:
    engine = engines.create_engine(f"sqlite:///{cli.database}")
    migration.downgrade(engine, "base")
    engine.dispose()
    assert cli.refuse("db", "check").endswith("run 'tracker-worker db upgrade'")
    assert cli.json("db", "current") == {"current": None, "head": migration.head()}


def test_the_check_of_an_old_schema_names_the_upgrade_command(
    cli: Cli, store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "head", lambda: "9999")
    found = cli.json("db", "current")["current"]
    expected = f"the database schema is at revision {found}, not at 9999: run 'tracker-worker db upgrade'"
    assert cli.refuse("db", "check") == expected
    assert cli.refuse("node", "list") == expected


def test_the_schema_of_a_newer_release_is_refused(cli: Cli, store: SQLStore) -> None:
    _stamp(cli, "9999")
    for arguments in (("db", "check"), ("node", "list"), ("outbox", "status")):
        assert "9999, which this release does not know" in cli.refuse(*arguments)


def test_a_directory_that_cannot_be_created_is_an_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cli.configure(f"[tracker]\nstate_path = {tmp_path / 'file' / 'state'}\n")
    assert "cannot be made" in cli.refuse("db", "upgrade")


def test_the_histories_of_a_database_are_listed_oldest_first(cli: Cli, store: SQLStore) -> None:
    (first,) = cli.json("db", "history")
    assert first == {
        "ledger_id": store.histories()[0].ledger_id,
        "since": iso(store.histories()[0].since),
        "reason": "a new database",
        "predecessor": None,
    }
    new = cli.succeed("db", "new-history", "--reason", "restored from the backup of Sunday").strip()
    last = cli.json("db", "history")[-1]
    assert (last["ledger_id"], last["predecessor"]) == (new, first["ledger_id"])
    assert last["reason"] == "restored from the backup of Sunday"
    lines = cli.succeed("db", "history").splitlines()
    assert [line.split()[0] for line in lines[2:]] == [first["ledger_id"], new]


def test_a_new_history_is_told_by_every_node_of_every_host(cli: Cli, store: SQLStore, ledger: Writer) -> None:
    settle(store, host="other", nodes=1)
    before = {
        (stream.host, stream.node): stream.sequence for host in store.host_names() for stream in store.streams(host)
    }
    old = store.histories()[-1].ledger_id
    begun = cli.json("db", "new-history", "--reason", "a test")
    assert begun == cli.json("db", "history")[-1]
    for (host, node), sequence in before.items():
        (stream,) = (stream for stream in store.streams(host) if stream.node == node)
        (row,) = store.outbox(stream.id, after=sequence, limit=9)
        payload = json.loads(row.payload)
        assert row.event_type == "tracker.node.updated"
        assert (payload["previous_ledger_id"], payload["previous_sequence"]) == (old, sequence)
        assert payload["ledger_id"] == begun["ledger_id"]
        asked = json.loads(row.asked)
        assert asked["method"] == "db new-history"
        assert asked["user_id"]


def test_without_notifications_a_new_history_makes_none(cli: Cli, store: SQLStore, ledger: Writer) -> None:
    cli.configure(f"[tracker]\nstate_path = {cli.state}\n[notifications]\ndriver = noop\n")
    cli.succeed("db", "new-history", "--reason", "a test")
    assert store.outbox(ledger["node-2"].stream_id, after=3, limit=9) == []
    assert [stream.sequence for stream in store.streams("host-1")] == [3, 4]


@pytest.mark.parametrize("arguments", [(), ("--reason", " "), ("--reason", "r" * 256), ("--reason", "\udcff")])
def test_a_new_history_needs_a_reason_of_at_most_255_characters(
    cli: Cli, store: SQLStore, arguments: tuple[str, ...]
) -> None:
    assert cli.run("db", "new-history", *arguments).exit_code == 2
    assert len(store.histories()) == 1


def test_histories_of_a_missing_database_are_an_error(cli: Cli) -> None:
    for arguments in (("history",), ("new-history", "--reason", "a test")):
        assert cli.refuse("db", *arguments).startswith("there is no database ")
    assert not cli.state.exists()
