# SPDX-License-Identifier: Apache-2.0
"""Turns of the processes that write one SQLite file.

SQLite has one writer, and its lock is not fair: beside a process that writes without a pause, another one waited for more
than a second. Therefore a process that waits for its turn puts a file beside the database, and a process that sees the file
after its own commit leaves the lock alone for PAUSE_SECONDS. The file is a courtesy: it costs one look per commit, and nothing
depends on it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

LOG = logging.getLogger(__name__)

PAUSE_SECONDS = 0.02
_ANNOUNCE_AFTER_SECONDS = 0.1
"""A writer that is not urgent waits so long before it announces itself."""
_MARGIN_SECONDS = 1.0
_FIRST_POLL_SECONDS = 0.001
_LONGEST_POLL_SECONDS = 0.01
_WAITS_NOT = "tracker_waits_not"
"""Noted with a connection that does not wait for locks by itself. To set that anew for each commit costs a tenth of it."""


class WriteTurns:
    """The turns of this process. Times in seconds. One thread at a time may use an object; two that do pause too little."""

    def __init__(
        self,
        database: Path,
        *,
        lock_timeout_seconds: float,
        monotonic: Callable[[], float],
        wall_clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.file = database.with_name(database.name + "-waiting")
        self._lock_timeout_seconds = lock_timeout_seconds
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._usual_timeout = f"PRAGMA busy_timeout = {round(lock_timeout_seconds * 1000)}"
        self._resume_at = 0.0

    def begin(self, execute: Callable[[str], Any], info: dict[Any, Any], *, urgent: bool = False) -> None:
        """Begin a transaction that may write, with ``execute`` of a connection. ``info``: what the pool keeps with the
        connection. ``urgent``: announce this immediately.

        Raises sqlite3.OperationalError, or SQLAlchemy's: another process has held the lock for the lock timeout, or the file
        cannot be used.
        """
        now = self._monotonic()
        if now < self._resume_at:
            self._sleep(min(self._resume_at - now, PAUSE_SECONDS))
            now = self._monotonic()
        # SQLite would wait by itself, in real time and without announcing it.
        if not info.get(_WAITS_NOT):
            execute("PRAGMA busy_timeout = 0")
            info[_WAITS_NOT] = True
        self._begin(execute, now, urgent=urgent)

    def begin_reading(self, execute: Callable[[str], Any], info: dict[Any, Any]) -> None:
        """Begin a transaction that only reads. It waits for nobody, but for another process that opens or closes the file."""
        if info.pop(_WAITS_NOT, False):
            execute(self._usual_timeout)
        execute("BEGIN")

    def _begin(self, execute: Callable[[str], Any], began: float, *, urgent: bool) -> None:
        poll = _FIRST_POLL_SECONDS
        announced = False
        try:
            while True:
                try:
                    execute("BEGIN IMMEDIATE")
                    return
                except (sqlite3.OperationalError, sa.exc.OperationalError) as error:
                    waited = self._monotonic() - began
                    if not _is_busy(error) or waited >= self._lock_timeout_seconds:
                        raise
                if urgent or waited >= _ANNOUNCE_AFTER_SECONDS:
                    self._announce()  # again: another waiter may have taken the file away when it had its turn
                    announced = True
                self._sleep(poll)
                poll = min(2 * poll, _LONGEST_POLL_SECONDS)
        finally:
            if announced:
                self._withdraw()

    def ended(self) -> None:
        """A transaction of this process that may have written has ended."""
        try:
            announced_at = os.stat(self.file).st_mtime
        except FileNotFoundError:
            return
        except OSError as error:
            LOG.warning("cannot see whether another process waits for the database: %s", error)
            return
        # Nobody waits for longer than the timeout: whoever made an older file has died. So has one in the future, as far as
        # anybody can tell after the clock was set back.
        if abs(self._wall_clock() - announced_at) > self._lock_timeout_seconds + _MARGIN_SECONDS:
            self._withdraw()
        else:
            self._resume_at = self._monotonic() + PAUSE_SECONDS

    def _announce(self) -> None:
        try:
            if not self.file.exists():
                self.file.touch(mode=0o600)
                now = self._wall_clock()
                os.utime(self.file, (now, now))
        except OSError as error:
            LOG.warning("cannot announce that this process waits for the database: %s", error)

    def _withdraw(self) -> None:
        try:
            self.file.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("cannot take back that a process waits for the database: %s", error)


def _is_busy(error: Exception) -> bool:
    original = getattr(error, "orig", error)
    return getattr(original, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
