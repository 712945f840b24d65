# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker db backup`` and ``db restore``, and who may read what they write."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.builders import begin
from tests.support.store import Writer
from tests.unit.cli.conftest import Cli
from tracker_worker.store.sql import engines, migration
from tracker_worker.store.sql.store import SQLStore

POSTGRESQL = "postgresql+psycopg://tracker:se%40cret@db.example.org:6432/ledger?sslmode=require&password=other"


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def content(database: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in tables}


def charged(cli: Cli) -> set[str]:
    return {view["instance_uuid"] for view in cli.json("instance", "list")}


@pytest.fixture
def copy(cli: Cli, ledger: Writer, store: SQLStore, tmp_path: Path) -> Path:
    """A copy of a database with three instances; a fourth has come since, and nobody uses the database."""
    file = tmp_path / "copy.sqlite"
    cli.succeed("db", "backup", str(file))
    ledger.put(begin(4, node="node-1")).commit()
    store.stop()
    return file


def test_a_backup_is_the_database_as_of_the_last_commit(cli: Cli, ledger: Writer, tmp_path: Path) -> None:
    file = tmp_path / "copy.sqlite"
    said = cli.succeed("db", "backup", str(file))
    assert said == f"{file} is a copy of the database {cli.database}: {file.stat().st_size} bytes\n"
    assert content(file) == content(cli.database)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.sqlite", "state", "worker.conf"]


def test_a_database_is_backed_up_while_another_process_writes_it(cli: Cli, ledger: Writer, tmp_path: Path) -> None:
    with closing(sqlite3.connect(cli.database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE hosts SET name = 'unfinished'")
        cli.succeed("db", "backup", str(tmp_path / "copy.sqlite"))
        writer.execute("ROLLBACK")
    assert content(tmp_path / "copy.sqlite") == content(cli.database)


def test_what_is_written_can_be_read_by_its_user_only(cli: Cli, tmp_path: Path, umask: int) -> None:
    cli.succeed("db", "upgrade")
    cli.succeed("db", "backup", str(tmp_path / "copy.sqlite"))
    cli.database.unlink()
    cli.succeed("db", "restore", str(tmp_path / "copy.sqlite"))
    assert mode(tmp_path / "copy.sqlite") == mode(cli.database) == 0o600
    assert mode(cli.state) == 0o700


def test_the_files_beside_a_database_can_be_read_by_its_user_only(tmp_path: Path, umask: int) -> None:
    store = SQLStore(f"sqlite:///{tmp_path / 'tracker.sqlite'}")
    store.start()
    store.register_host("host-1", topic="tracker", version="1.0", now=1)
    found = {path.name: mode(path) for path in tmp_path.iterdir()}
    store.stop()
    assert found == {f"tracker.sqlite{end}": 0o600 for end in ("", "-wal", "-shm")}


def test_a_directory_and_a_file_that_exist_keep_their_modes(cli: Cli, umask: int) -> None:
    cli.state.mkdir()
    cli.state.chmod(0o750)
    cli.database.touch()
    cli.database.chmod(0o640)
    cli.succeed("db", "upgrade")
    assert (mode(cli.state), mode(cli.database)) == (0o750, 0o640)


def test_a_backup_replaces_no_file(cli: Cli, ledger: Writer, tmp_path: Path) -> None:
    file = tmp_path / "copy.sqlite"
    file.write_text("precious")
    assert cli.refuse("db", "backup", str(file)) == f"{file} exists; a backup replaces no file"
    assert file.read_text() == "precious"


def test_a_backup_that_fails_leaves_no_file(cli: Cli, tmp_path: Path) -> None:
    cli.state.mkdir()
    cli.database.write_text("no database\n")
    assert cli.refuse("db", "backup", str(tmp_path / "copy.sqlite")) == (
        f"no backup is made: {cli.database} is no SQLite database"
    )
    assert "No such file or directory" in cli.refuse("db", "backup", str(tmp_path / "none" / "copy.sqlite"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "worker.conf"]


def test_names_may_have_any_characters(tmp_path: Path) -> None:
    directory = tmp_path / "a b%20?#&=ü"
    directory.mkdir()
    cli = Cli(directory)
    cli.succeed("db", "upgrade")
    file = directory / "file:copy of?mode=ro"
    cli.succeed("db", "backup", str(file))
    cli.succeed("db", "restore", str(file))
    assert cli.json("db", "history")[-1]["reason"] == "restored from file:copy of?mode=ro"
    assert [path.name for path in cli.state.iterdir()] == ["tracker.sqlite"]


def test_a_missing_database_is_not_backed_up(cli: Cli, tmp_path: Path) -> None:
    assert cli.refuse("db", "backup", str(tmp_path / "copy.sqlite")).startswith("there is no database ")
    assert not (tmp_path / "copy.sqlite").exists()


def test_a_restore_brings_the_copy_back_in_a_new_history(cli: Cli, copy: Path) -> None:
    assert len(charged(cli)) == 4
    (old,) = cli.json("db", "history")
    bytes_before = copy.read_bytes()

    new = cli.succeed("db", "restore", str(copy)).strip()

    assert len(charged(cli)) == 3
    first, last = cli.json("db", "history")
    assert first == old
    assert (last["ledger_id"], last["predecessor"], last["reason"]) == (
        new,
        old["ledger_id"],
        "restored from copy.sqlite",
    )
    assert copy.read_bytes() == bytes_before
    assert [path.name for path in cli.state.iterdir()] == ["tracker.sqlite"]


def test_every_node_tells_that_what_was_heard_since_never_happened(cli: Cli, copy: Path, store: SQLStore) -> None:
    (old,) = cli.json("db", "history")
    new = cli.succeed("db", "restore", str(copy)).strip()
    store.start()
    told = {}
    for stream in store.streams("host-1"):
        *_, row = store.outbox(stream.id, after=0, limit=99)
        payload = json.loads(row.payload)
        told[stream.node] = (
            row.sequence,
            payload["ledger_id"],
            payload["previous_ledger_id"],
            payload["previous_sequence"],
        )
        assert (row.event_type, json.loads(row.asked)["method"]) == ("tracker.node.updated", "db restore")
    # Instance 4 had been event 3 of node-1 in the old history; 2 are in the copy.
    assert told == {"node-1": (3, new, old["ledger_id"], 2), "node-2": (4, new, old["ledger_id"], 3)}


def test_a_database_that_is_lost_is_restored(cli: Cli, copy: Path) -> None:
    shutil.rmtree(cli.state)
    new = cli.succeed("db", "restore", str(copy)).strip()
    assert cli.json("db", "history")[-1]["ledger_id"] == new
    assert len(charged(cli)) == 3


def test_a_copy_that_is_older_than_the_present_history_names_hosts_to_adopt(cli: Cli, copy: Path) -> None:
    present = cli.succeed("db", "new-history", "--reason", "a test").strip()
    done = cli.run("db", "restore", str(copy))
    assert done.exit_code == 0
    assert done.stderr == (
        f"WARNING: hosts that were served from the ledger {present} are not served from this one, which is older, until "
        "'tracker-worker host adopt HOST': host-1\n"
    )


def test_a_database_that_somebody_has_open_is_not_replaced(cli: Cli, copy: Path, store: SQLStore) -> None:
    store.start()  # idle
    (host,) = store.hosts()
    store.take_lease([host.id], "worker-7", now=store.time(), until=store.time() + 15_000_000)
    assert cli.refuse("db", "restore", str(copy)) == (
        f"another process has the database {cli.database} open (1 worker: worker-7): stop the workers first, then restore"
    )
    assert len(charged(cli)) == 4
    assert len(store.histories()) == 1


def _text(path: Path) -> None:
    path.write_text("no database\n")


def _empty(path: Path) -> None:
    path.touch()


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE something (a INTEGER)")


def _alembic(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", [migration.head()])


def _newer(path: Path) -> None:
    migrated(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def _damaged(path: Path) -> None:
    migrated(path)
    pages = bytearray(path.read_bytes())
    pages[4096 * 2 : 4096 * 6] = b"\xa5" * 4096 * 4
    path.write_bytes(pages)


def migrated(path: Path, revision: str = "head") -> None:
    engine = engines.create_engine(f"sqlite:///{path}")
    migration.upgrade(engine, revision)
    engine.dispose()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_text, "is no SQLite database"),
        (_empty, "is no SQLite database"),
        (_foreign, "is no database of tracker-worker: it has no schema"),
        (_alembic, "no such table: histories"),
        (_newer, "the database schema is at revision 9999, which this release does not know"),
        (_damaged, "is damaged"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_is_no_copy_of_a_ledger_changes_nothing(
    cli: Cli, ledger: Writer, store: SQLStore, tmp_path: Path, make: object, reason: str
) -> None:
    store.stop()
    before = content(cli.database)
    if callable(make):
        make(tmp_path / "file")
    assert reason in cli.refuse("db", "restore", str(tmp_path / "file"))
    assert content(cli.database) == before
    assert [path.name for path in cli.state.iterdir()] == ["tracker.sqlite"]


@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_a_copy_of_an_earlier_release_is_restored_and_upgraded(cli: Cli, tmp_path: Path, revision: str) -> None:
    migrated(tmp_path / "old.sqlite", revision)
    cli.succeed("db", "restore", str(tmp_path / "old.sqlite"))
    assert cli.succeed("db", "check").startswith("The schema is what this release needs: ledger ")
    assert len(cli.json("db", "history")) == 2


def test_the_database_itself_is_no_copy(cli: Cli, copy: Path) -> None:
    assert cli.refuse("db", "restore", str(cli.database)) == f"{cli.database} is the database itself"
    assert len(charged(cli)) == 4


def test_a_damaged_database_is_moved_away_by_its_operator(cli: Cli, copy: Path) -> None:
    cli.database.write_text("no database any more\n")
    assert "move it away, with tracker.sqlite-wal, tracker.sqlite-shm and tracker.sqlite-journal" in cli.refuse(
        "db", "restore", str(copy)
    )
    cli.database.unlink()
    (cli.state / "tracker.sqlite-wal").write_text("left")
    assert "tracker.sqlite-wal: this belongs to another database" in cli.refuse("db", "restore", str(copy))
    (cli.state / "tracker.sqlite-wal").unlink()
    cli.succeed("db", "restore", str(copy))


# Kills itself in the middle of the transaction in which the database becomes the copy.
_KILLED = """
import os, signal, sys
from pathlib import Path
from tracker_worker.store.sql import backup
backup._STEP_PAGES = 1
def progress(status, left, total):
    assert Path(sys.argv[1] + "-journal").stat().st_size
    if left < total // 4:
        os.kill(os.getpid(), signal.SIGKILL)
with backup.locked_database(Path(sys.argv[1])) as database:
    database.become(Path(sys.argv[2]), progress)
"""


def test_a_restore_that_is_killed_leaves_the_old_database(cli: Cli, copy: Path) -> None:
    # So much that pages reach the file before the end.
    for database in (cli.database, copy):
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE bulk (name TEXT, content BLOB)")
            connection.execute("BEGIN")
            row = (str(database), database.name.encode() * 300)
            connection.executemany("INSERT INTO bulk VALUES (?, ?)", [row] * 2000)
            connection.execute("COMMIT")
    before = content(cli.database)
    raw = cli.database.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, cli.database, copy], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (-9, "")
    assert cli.database.read_bytes() != raw  # it was in the middle
    assert content(cli.database) == before
    cli.succeed("db", "restore", str(copy))
    assert len(charged(cli)) == 3


@pytest.mark.parametrize(("command", "program"), [("backup", "pg_dump"), ("restore", "pg_restore")])
def test_for_postgresql_the_command_names_its_program_and_no_password(cli: Cli, command: str, program: str) -> None:
    cli.configure(f"[database]\nconnection = {POSTGRESQL}\n")
    said = cli.refuse("db", command, "my file.dump")
    assert f"{program} '--dbname=postgresql://tracker@db.example.org:6432/ledger?sslmode=require'" in said
    assert "'my file.dump'" in said or "'--file=my file.dump'" in said
    assert "cret" not in said
    assert "other" not in said
