# SPDX-License-Identifier: Apache-2.0
"""Whether an SQLite database is still the file of its name. A database that is open stays what it is when its file is deleted
or replaced: commits succeed, and the next start finds nothing of them."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import StoreReplaced
from tracker_worker.store.sql.location import sqlite_path


class WatchedFile:
    """Any thread may use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None

    def remember(self) -> None:
        """From now on, the file must be the one that has the name now. Raises StoreUnavailable."""
        self._identity = self._look()

    def check(self) -> None:
        """Raises StoreReplaced: another file has the name now, or none. Raises StoreUnavailable: this cannot be seen."""
        if self._identity is not None:
            found = self._look()
            if found != self._identity:
                raise StoreReplaced(str(self.path), deleted=found is None)

    def _look(self) -> tuple[int, int] | None:
        """The device and the inode of the file; None: there is none."""
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreUnavailable(reason=f"{self.path}: {error.strerror}") from error
        return found.st_dev, found.st_ino


def watched_file(url: sa.URL) -> WatchedFile | None:
    """The file of an SQLite database; None: the database is on a server."""
    return WatchedFile(sqlite_path(url)) if url.get_backend_name() == "sqlite" else None
