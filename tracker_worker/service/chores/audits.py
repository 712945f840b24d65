# SPDX-License-Identifier: Apache-2.0
"""Audits on the engine's side: who asked for one, and what happens with the drivers' answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tracker_worker.bus.base import Bus
from tracker_worker.domain import commands, queries, views
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.service.chores.inventories import Inventories, InventoryReport
from tracker_worker.service.chores.leases import Leases
from tracker_worker.service.requests.items import Chore
from tracker_worker.service.requests.methods import Audit
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.wire.reply import MAX_ANSWER_BYTES, answer


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that waits for the inventories of so many hosts."""

    request: PendingRequest
    hosts: int
    views: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None


class Audits:
    """Belongs to the engine's thread; ``submit`` brings a chore there."""

    def __init__(
        self,
        *,
        inventories: Inventories,
        bus: Bus,
        ledgers: Ledgers,
        leases: Leases,
        policy: Callable[[], Policy],
        submit: Callable[[Chore], None],
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._inventories = inventories
        self._bus = bus
        self._ledgers = ledgers
        self._leases = leases
        self._policy = policy
        self._submit = submit
        self._max_answer_bytes = max_answer_bytes

    def begin(self, request: PendingRequest) -> None:
        """Ask the drivers for an audit that was requested; a call gets its reply when all have answered."""
        operation = request.operation
        assert operation is not None
        assert isinstance(operation.action, Audit)
        waiting = _Waiting(request, len(operation.hosts)) if request.reply_to is not None else None
        for host in operation.hosts:
            self._read(host, operation.action.node, waiting)

    def periodic(self, host: str) -> None:
        """Expire claims of a host that are due and read its inventories, if this worker holds the host's lease."""
        if host not in self._leases.held:
            return
        release = self._policy().release_expired
        expire = [commands.ExpireClaims(node=ledger.name, release=release) for ledger in self._ledgers.get(host)]
        self._submit(Chore(host=host, commands=expire))
        self._read(host, None, None)

    def _read(self, host: str, node: str | None, waiting: _Waiting | None) -> None:
        def reported(report: InventoryReport) -> None:  # on one of the pool's threads
            def committed(ledgers: HostLedger) -> None:
                if waiting is not None:
                    waiting.views += [views.node_view(ledger) for ledger in queries.nodes(ledgers, node)]
                    self._host_done(waiting, next(iter(report.errors), None))

            def failed(error: Exception) -> None:
                if waiting is not None:
                    self._host_done(waiting, error)

            self._submit(Chore(host=host, commands=report.found, done=committed, failed=failed))

        self._inventories.read(host, node, reported)

    def _host_done(self, waiting: _Waiting, error: Exception | None) -> None:
        """One host is finished, with ``error`` or without one; with the last host the caller gets its reply."""
        waiting.error = waiting.error or error
        waiting.hosts -= 1
        if not waiting.hosts:
            request = waiting.request
            request.end_heartbeat()
            answered = answer(
                request.reply_to,
                waiting.views,
                waiting.error,
                limit=self._max_answer_bytes,
                method="update_available_resource",
            )
            self._bus.sender.send([request.conclusion(answered)])
