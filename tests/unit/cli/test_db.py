# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker db``."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.unit.cli.conftest import Cli
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
    cli.succeed("db", "check")
    assert cli.json("db", "current") == {"current": migration.head(), "head": migration.head()}
    assert migration.head() in cli.succeed("db", "current")


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
