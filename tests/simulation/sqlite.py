# SPDX-License-Identifier: Apache-2.0
"""The database as an SQLite file, through the worker's own SQLStore.

A worker has an SQLStore of its own. Its waits pass virtual time, and other threads get their turns within its transactions. The
file is in memory where the system can do that, and nothing waits for a disk: what survives a power cut is not tested here.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.simulation.database import FULL, READ_ONLY, Database
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage
from tracker_worker.domain.host import HostLedger
from tracker_worker.ids import NewIds
from tracker_worker.store.base import Store
from tracker_worker.store.sql.commit import hosts_of
from tracker_worker.store.sql.store import SQLStore

_STATEMENTS_BETWEEN = 40
"""So many statements, on average, are executed on a connection until other threads get a turn in front of one."""
_TURN_SECONDS = 0.05
_AGAIN_SECONDS = 0.002
_CURSORS_AHEAD = """\
SELECT topic, host, node FROM relay_cursor JOIN streams ON streams.id = relay_cursor.stream_id
WHERE topic <> '' AND relay_cursor.sequence > streams.sequence"""
_REFUSING = {
    None: ("query_only = OFF", f"max_page_count = {2**30}"),
    FULL: ("max_page_count = 1",),
    READ_ONLY: ("query_only = ON",),
}


class SQLiteDatabase(Database):
    shared = False

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        memory = Path("/dev/shm")
        self._directory = tempfile.TemporaryDirectory(
            prefix="tracker-simulation-", dir=memory if memory.is_dir() else None
        )
        self._file = Path(self._directory.name) / "tracker.sqlite"
        self._file.write_bytes(_empty())
        self._identify()
        self._open: dict[Machine, list[_Connection]] = {}
        self.store: Store = self._plain(self._file)

    def _identify(self) -> None:
        """Give the new database a ledger_id and a beginning that come from the seed."""
        now = self.stage.microseconds()
        connection = sqlite3.connect(self._file)
        connection.execute(
            "UPDATE histories SET ledger_id = ?, since = ?", [NewIds(self.stage.random.randbytes)(now), now]
        )
        connection.commit()
        connection.close()

    def _plain(self, file: Path) -> SQLStore:
        store = SQLStore(f"sqlite:///{file}", now=self.stage.microseconds, lock_timeout_seconds=0)
        sa.event.listen(store.engine, "connect", _without_disk)
        return store

    def opened(self, machine: Machine) -> Store:
        store = SQLStore(
            f"sqlite:///{self._file}",
            write_lock=machine.lock(),
            monotonic=machine.monotonic,
            wall_clock=lambda: machine.clock() / 1_000_000,
            sleep=machine.sleep,
            now=machine.clock,
        )
        connections: list[_Connection] = []

        def connect(dialect: Any, _record: Any, arguments: Any, options: Any) -> _Connection:
            connection: _Connection = dialect.connect(*arguments, factory=_Connection, **options)
            connection.begin(machine)
            connections.append(connection)
            return connection

        def prepare(connection: _Connection, _record: Any) -> None:
            _without_disk(connection)
            if self.refuses is not None:
                connection.set(_REFUSING[self.refuses])

        sa.event.listen(store.engine, "do_connect", connect)
        sa.event.listen(store.engine, "connect", prepare)
        self._open[machine] = connections
        machine.closed_by_crash.append(lambda: self._close(machine))
        return store

    def _close(self, machine: Machine) -> None:
        for connection in self._open.pop(machine, ()):
            connection.end()

    def ledgers(self) -> list[HostLedger]:
        with self._reading() as connection:
            return hosts_of(connection)

    def cursors_ahead(self) -> list[str]:
        with self._reading() as connection:
            return [f"{topic} of {host}/{node}" for topic, host, node in connection.execute(_CURSORS_AHEAD)]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The driver alone: SQLAlchemy needs three times as long."""
        connection = sqlite3.connect(self._file, isolation_level=None)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()

    def refuse(self, why: str | None) -> None:
        self.refuses = why
        for connections in self._open.values():
            for connection in connections:
                connection.set(_REFUSING[why])

    def back_up(self) -> sqlite3.Connection:
        backup = sqlite3.connect(":memory:")
        source = sqlite3.connect(self._file)
        source.backup(backup)
        source.close()
        return backup

    def put_back(self, backup: sqlite3.Connection, done: Callable[[], object]) -> None:
        target = sqlite3.connect(self._file, timeout=0)
        try:
            backup.backup(target, progress=_without_waiting)
        except _Busy:
            self.stage.later(_AGAIN_SECONDS, lambda: self.put_back(backup, done))
            return
        finally:
            target.close()
        done()

    def with_new_history(self, backup: sqlite3.Connection) -> sqlite3.Connection:
        file = self._file.with_name("restored.sqlite")
        self._write(backup, file)
        store = self._plain(file)
        try:
            self._begin_history(store)
        finally:
            store.stop()
        restored = sqlite3.connect(":memory:")
        source = sqlite3.connect(file)
        source.backup(restored)
        source.close()
        _remove(file)
        return restored

    def replace(self, backup: sqlite3.Connection) -> bool:
        other = self._file.with_name("other.sqlite")
        self._write(backup, other)
        self.store.stop()
        _remove(self._file)
        other.rename(self._file)
        return True

    @staticmethod
    def _write(backup: sqlite3.Connection, file: Path) -> None:
        target = sqlite3.connect(file)
        backup.backup(target)
        target.close()

    def close(self) -> None:
        for machine in list(self._open):
            self._close(machine)
        self.store.stop()
        self._directory.cleanup()


class _Busy(Exception):
    """A worker writes."""


def _without_waiting(status: int, _remaining: int, _total: int) -> None:
    """Progress of a copy, which would wait in real time."""
    if status not in (sqlite3.SQLITE_OK, sqlite3.SQLITE_DONE):
        raise _Busy


def _without_disk(connection: sqlite3.Connection, _record: Any = None) -> None:
    connection.execute("PRAGMA synchronous=OFF")


def _remove(file: Path) -> None:
    for path in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
        path.unlink(missing_ok=True)


@cache
def _empty() -> bytes:
    """The file of a new database."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "empty.sqlite"
        store = SQLStore(f"sqlite:///{file}")
        store.start()
        store.stop()
        return file.read_bytes()


class _Cursor(sqlite3.Cursor):
    connection: _Connection

    def execute(self, text: str, *parameters: Any) -> sqlite3.Cursor:
        self.connection.pass_statement(text)
        return super().execute(text, *parameters)

    def executemany(self, text: str, *parameters: Any) -> sqlite3.Cursor:
        self.connection.pass_statement(text)
        return super().executemany(text, *parameters)


class _Connection(sqlite3.Connection):
    """A connection of a machine, on which other threads get a turn before some statements of a transaction."""

    def begin(self, machine: Machine) -> None:
        self._machine = machine
        self._left = self._draw()

    def _draw(self) -> int:
        return int(self._machine.stage.random.random() * 2 * _STATEMENTS_BETWEEN)

    def cursor(self, *_: Any) -> Any:
        return super().cursor(_Cursor)

    def commit(self) -> None:
        self.pass_statement("COMMIT")
        super().commit()

    def end(self) -> None:
        """Close it as the end of its process does. ``close`` alone keeps the locks for as long as a cursor has a statement."""
        with suppress(sqlite3.ProgrammingError):  # closed already
            super().rollback()
        self.close()

    def set(self, pragmas: tuple[str, ...]) -> None:
        """Execute pragmas without giving up the turn."""
        cursor = super().cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}").fetchall()

    def pass_statement(self, text: str) -> None:
        """A statement is about to be executed."""
        self._left -= 1
        if self._left >= 0 or not (self.in_transaction or text.startswith("BEGIN")):
            return  # outside of transactions, SQLAlchemy may hold a lock of real threads
        self._left = self._draw()
        machine = self._machine
        machine.sleep(machine.stage.random.random() ** 4 * _TURN_SECONDS)
