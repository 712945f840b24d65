# SPDX-License-Identifier: Apache-2.0
"""The audit that a start waits for: no claim is received before every host's inventory is committed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tracker_worker import threads
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.chores.inventories import Inventories, InventoryReport
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.requests.items import Chore


class StartCancelled(Exception):
    """The worker is stopped before its start is finished."""


class FirstAudit:
    """Waits until the inventory of every host is committed, or one has failed."""

    def __init__(
        self, engine: EngineThread, inventories: Inventories, hosts: Sequence[str], own: Collection[str]
    ) -> None:
        """Of ``hosts``, this worker does the chores of ``own``. For the others it writes an inventory only where the ledger has
        none."""
        self._engine = engine
        self._inventories = inventories
        self._hosts = hosts
        self._own = own
        self._condition = threads.Condition()
        self._left = len(hosts)
        self._error: Exception | None = None
        self._cancelled = False

    def run(self, seconds: float) -> None:
        """Raises ConfigurationError: an inventory failed, or a driver has not answered within so many seconds; StartCancelled:
        ``cancel`` was called."""
        for host in self._hosts:
            self._inventories.read(host, None, self._reported)
        with self._condition:
            done = self._condition.wait_for(
                lambda: not self._left or self._error is not None or self._cancelled, seconds
            )
        if self._cancelled:
            raise StartCancelled
        if self._error is not None:
            raise ConfigurationError(f"the first inventory failed: {self._error}") from self._error
        if not done:
            raise ConfigurationError(f"the inventory driver has not answered within {seconds} s")

    def cancel(self) -> None:
        """Have ``run`` return soon. Any thread."""
        with self._condition:
            self._cancelled = True
            self._condition.notify()

    def _reported(self, report: InventoryReport) -> None:
        """On a thread of the inventories."""
        if report.errors:
            self._failed(report.errors[0])
        else:
            self._engine.submit(
                Chore(
                    host=report.host,
                    commands=report.found,
                    done=self._committed,
                    failed=self._failed,
                    if_new=report.host not in self._own,
                )
            )

    def _committed(self, host: HostLedger) -> None:
        with self._condition:
            self._left -= 1
            self._condition.notify()

    def _failed(self, error: Exception) -> None:
        with self._condition:
            self._error = self._error or error
            self._condition.notify()
