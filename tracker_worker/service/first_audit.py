# SPDX-License-Identifier: Apache-2.0
"""The audit at a start. Requests are received when every inventory is committed, or after a short time: a driver that is slow
or fails keeps nobody from claiming on other nodes, or on nodes that the ledger knows."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from functools import partial

from tracker_worker import threads
from tracker_worker.domain import commands
from tracker_worker.domain.host import HostLedger
from tracker_worker.service.chores.inventories import Inventories, InventoryReport, Report
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.requests.items import Chore

LOG = logging.getLogger(__name__)

_MOST_NAMES = 10


class StartCancelled(Exception):
    """The worker is stopped before its start is finished."""


class FirstAudit:
    """Reads the inventory of every host. What is known after ``run`` has returned is committed as it comes."""

    def __init__(
        self,
        engine: EngineThread,
        inventories: Inventories,
        hosts: Sequence[str],
        own: Collection[str],
        *,
        runtime: threads.Runtime = threads.SYSTEM,
    ) -> None:
        """Of ``hosts``, this worker does the chores of ``own``. For the others it writes an inventory only where the ledger has
        none."""
        self._engine = engine
        self._inventories = inventories
        self._hosts = hosts
        self._own = own
        self._condition = runtime.condition()
        self._left = set(hosts)
        self._cancelled = False

    def run(self, seconds: float) -> None:
        """Wait until all drivers have answered or failed and this is committed, at most for so many seconds. Raises
        StartCancelled: ``cancel`` was called."""
        for host in self._hosts:
            self._inventories.read(host, None, self._reported, self._found)
        with self._condition:
            self._condition.wait_for(lambda: not self._left or self._cancelled, seconds)
            left = sorted(self._left)
        if self._cancelled:
            raise StartCancelled
        if left:
            names = ", ".join(left[:_MOST_NAMES]) + (", ..." if len(left) > _MOST_NAMES else "")
            LOG.warning(
                "the inventory drivers of %d hosts have not answered within %g s (%s): the start goes on with what the "
                "ledger has",
                len(left),
                seconds,
                names,
            )

    def cancel(self) -> None:
        """Have ``run`` return soon. Any thread."""
        with self._condition:
            self._cancelled = True
            self._condition.notify()

    def _found(self, host: str, report: Report) -> None:
        """Not on the engine's thread."""
        done = self._listed if isinstance(report, commands.ReportList) else None
        self._engine.submit(Chore(host=host, commands=[report], done=done, if_new=host not in self._own))

    def _listed(self, host: HostLedger) -> None:
        self._engine.look_elsewhere()

    def _reported(self, report: InventoryReport) -> None:
        """On a thread of the inventories; what was found is submitted."""
        ended = partial(self._ended, report.host)
        self._engine.submit(Chore(host=report.host, commands=(), done=ended, failed=ended))

    def _ended(self, host: str, outcome: HostLedger | Exception) -> None:
        with self._condition:
            self._left.discard(host)
            self._condition.notify()
