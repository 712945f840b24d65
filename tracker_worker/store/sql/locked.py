# SPDX-License-Identifier: Apache-2.0
"""Hosts under lock, in an open transaction of the driver."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from tracker_worker.domain.host import HostLedger
from tracker_worker.store.base import Commit, LockedHost, LockedStore
from tracker_worker.store.sql.commit import Writer
from tracker_worker.store.sql.failures import explained


class SQLLockedHost(LockedHost):
    """Belongs to the thread that made it. ``connection`` is the driver's; ``writer`` has locked the host in it and returned
    ``ledger``; ``check`` is that of the store."""

    def __init__(self, connection: Any, writer: Writer, ledger: HostLedger, check: Callable[[], None]) -> None:
        self.ledger = ledger
        self._check = check
        self._connection = connection
        self._writer = writer
        self._ended = False

    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        with explained():
            return self._writer.answered(self._connection, unique_ids)

    def commit(self, commit: Commit) -> None:
        if self._ended:
            raise RuntimeError("a locked host is committed once at most")
        self._ended = True
        with explained():
            self._writer.finish(self._connection, commit)
        self._check()


class SQLLockedStore(LockedStore):
    """The same for all hosts; ``writer`` has locked them and returned ``hosts``."""

    def __init__(self, connection: Any, writer: Writer, hosts: Sequence[HostLedger], check: Callable[[], None]) -> None:
        self.hosts = hosts
        self._check = check
        self._connection = connection
        self._writer = writer

    def commit(self, commit: Commit) -> None:
        with explained():
            self._writer.finish(self._connection, commit)
        self._check()
