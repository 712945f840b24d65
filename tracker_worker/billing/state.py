# SPDX-License-Identifier: Apache-2.0
"""Where books are kept: a mapping of text to JSON values."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import PathLike
from typing import Any, Self

State = MutableMapping[str, Any]
"""A mapping of text to JSON values. If it has a method ``transaction`` that returns a context manager, everything that is
written within its block is kept, or nothing is."""


class SqliteState(MutableMapping[str, Any]):
    """A mapping in an SQLite file, which is made where there is none. Used by one thread at a time, and by one process.

    What is written is durable when the transaction has ended; outside of one, when the method returns. ``connection`` may be
    used for tables of the caller's own, so that they change in the same transaction.

    Every method raises sqlite3.Error where the file cannot be used.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS tracker_books (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep everything that is written within the block, or, after an exception, nothing. A block within another one is kept
        with that."""
        within = self.connection.in_transaction
        self.connection.execute("SAVEPOINT tracker_books" if within else "BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("RELEASE tracker_books" if within else "COMMIT")
        except BaseException:
            if within and self.connection.in_transaction:  # an error of the file may have ended it
                self.connection.execute("ROLLBACK TO tracker_books")
                self.connection.execute("RELEASE tracker_books")
            else:
                self.connection.rollback()
            raise

    def __getitem__(self, name: str) -> Any:
        row = self.connection.execute("SELECT value FROM tracker_books WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise KeyError(name)
        return json.loads(row[0])

    def __setitem__(self, name: str, value: Any) -> None:
        text = json.dumps(value, separators=(",", ":"))
        self.connection.execute("INSERT OR REPLACE INTO tracker_books VALUES (?, ?)", (name, text))

    def __delitem__(self, name: str) -> None:
        if not self.connection.execute("DELETE FROM tracker_books WHERE name = ?", (name,)).rowcount:
            raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter([name for (name,) in self.connection.execute("SELECT name FROM tracker_books ORDER BY name")])

    def __len__(self) -> int:
        count: int = self.connection.execute("SELECT count(*) FROM tracker_books").fetchone()[0]
        return count


def transaction(state: State) -> AbstractContextManager[Any]:
    """A transaction of the state, or none where it has none."""
    begin = getattr(state, "transaction", nullcontext)
    found: AbstractContextManager[Any] = begin()
    return found
