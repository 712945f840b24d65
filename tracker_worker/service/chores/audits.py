# SPDX-License-Identifier: Apache-2.0
"""Audits on the engine's side: who asked for one, and what happens with the drivers' answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tracker_worker.bus.base import Bus
from tracker_worker.domain import commands, queries, views
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.service.chores.inventories import Auditor, Report
from tracker_worker.service.loop.batch import Chore
from tracker_worker.service.requests.methods import Audit
from tracker_worker.service.requests.pending import Work, answer, conclude, dismiss


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that waits for the reports of so many hosts."""

    work: Work
    hosts: int
    views: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None


class Audits:
    """Belongs to the engine's thread; ``submit`` brings a chore there."""

    def __init__(self, *, auditor: Auditor, bus: Bus, submit: Callable[[Chore], None]) -> None:
        self._auditor = auditor
        self._bus = bus
        self._submit = submit

    def begin(self, work: Work) -> None:
        """Ask the drivers; a call gets its reply when all have answered."""
        assert work.call is not None
        assert isinstance(work.call.asked, Audit)
        waiting = _Waiting(work, len(work.call.hosts)) if work.reply_to is not None else None
        for host in work.call.hosts:
            self._ask(host, work.call.asked.node, waiting)

    def periodic(self, host: HostLedger, *, release_expired: bool) -> None:
        """Expire what is due, and read the inventory."""
        expire = [commands.ExpireClaims(node=ledger.name, release=release_expired) for ledger in host]
        self._submit(Chore(host=host.name, commands=expire))
        self._ask(host.name, None, None)

    def _ask(self, host: str, node: str | None, waiting: _Waiting | None) -> None:
        def reported(report: Report) -> None:  # on one of the auditor's threads
            def committed(ledgers: HostLedger) -> None:
                if waiting is not None:
                    waiting.views += [views.node_view(ledger) for ledger in queries.nodes(ledgers, node)]
                    self._tell(waiting, next(iter(report.errors), None))

            def failed(error: Exception) -> None:
                if waiting is not None:
                    self._tell(waiting, error)

            self._submit(Chore(host=host, commands=report.found, done=committed, failed=failed))

        self._auditor.audit(host, node, reported)

    def _tell(self, waiting: _Waiting, error: Exception | None) -> None:
        """One host is done, with ``error`` or without; with the last one the caller gets its reply."""
        waiting.error = waiting.error or error
        waiting.hosts -= 1
        if waiting.hosts:
            return
        if waiting.work.expired:
            dismiss(self._bus, waiting.work)
        else:
            conclude(self._bus, waiting.work, answer(waiting.work, waiting.views, waiting.error))
