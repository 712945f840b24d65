# SPDX-License-Identifier: Apache-2.0
"""Audits on the engine's side: who asked for one, and what happens with the drivers' answers.

An audit of a node, or of a whole host, is a look. Calls that come while a look runs wait together for the next one of the
same kind and share its answer, because the look that runs may have seen the node before they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tracker_worker import threads
from tracker_worker.bus.base import Bus, Outgoing
from tracker_worker.domain import commands, queries, views
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import TrackerError
from tracker_worker.service.chores.audit_calls import AuditCall, AuditCalls, Views
from tracker_worker.service.chores.inventories import Inventories, InventoryReport, Report
from tracker_worker.service.chores.leases import Leases
from tracker_worker.service.requests.items import Chore
from tracker_worker.service.requests.methods import Audit
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.tally import Tally
from tracker_worker.wire.reply import MAX_ANSWER_BYTES


@dataclass(slots=True, eq=False)
class _Look:
    """One audit of ``node``, or of all nodes of ``host``, and the calls that it answers."""

    host: str
    node: str | None
    calls: dict[AuditCall, None] = field(default_factory=dict)
    error: Exception | None = None

    def failed(self, error: Exception) -> None:
        """A report of this look cannot be decided."""
        self.error = self.error or error


class Audits:
    """Belongs to the engine's thread; ``submit`` brings a chore there. ``busy``: whether ``step`` has something to do."""

    def __init__(
        self,
        *,
        inventories: Inventories,
        bus: Bus,
        ledgers: Ledgers,
        leases: Leases,
        policy: Callable[[], Policy],
        submit: Callable[[Chore], None],
        listed: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = threads.monotonic,
        count: Callable[[str], None] = lambda name: None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        tally: Tally | None = None,
    ) -> None:
        """``listed`` is called on the engine's thread when a host's list of nodes is committed. ``monotonic`` gives seconds;
        ``count`` adds one to a counter; ``tally`` counts the outcomes."""
        self._inventories = inventories
        self._bus = bus
        self._ledgers = ledgers
        self._leases = leases
        self._policy = policy
        self._submit = submit
        self._listed = listed
        self._tally = Tally() if tally is None else tally
        self._calls = AuditCalls(send=self._send, monotonic=monotonic, count=count, max_answer_bytes=max_answer_bytes)
        # Of each kind, by host and node, one look runs and another one waits for its end, or for the next step.
        self._running: set[tuple[str, str | None]] = set()
        self._next: dict[tuple[str, str | None], _Look] = {}
        self._ready: list[_Look] = []
        self.busy = False

    def _send(self, outgoing: Sequence[Outgoing]) -> None:
        self._bus.sender.send(outgoing)  # the bus has its sender from its start on

    def begin_all(self, requests: Iterable[PendingRequest]) -> None:
        """See ``begin``."""
        for request in requests:
            self.begin(request)

    def begin(self, request: PendingRequest) -> None:
        """Ask the drivers for an audit that was requested. A call is settled now, and gets its reply when all have answered."""
        operation = request.operation
        assert operation is not None
        assert isinstance(operation.action, Audit)
        node = operation.action.node
        if request.reply_to is None:
            for host in operation.hosts:
                self._inventories.refresh(host, node, self._found)
            return
        call = self._calls.admit(request)
        if call is not None:
            self.busy = True
            for host in operation.hosts:
                self._join(host, node, call)

    def periodic(self, host: str) -> None:
        """Expire claims of a host that are due and read its inventories, if this worker holds the host's lease."""
        if host not in self._leases.held:
            return
        policy = self._policy()
        expire = [policy.expire(ledger.name) for ledger in self._ledgers.get(host)]
        self._submit(Chore(host=host, commands=expire))  # while they may not expire, the commands change nothing
        self._inventories.refresh(host, None, self._found)

    def step(self, now: float) -> float | None:
        """Begin the looks that are due, answer calls, and end those whose time is up. Returns the seconds until the next step
        is due; None: it is due when something has arrived."""
        ready, self._ready = self._ready, []
        for look in ready:
            self._begin(look)
        due = self._calls.step(now)
        self.busy = due is not None
        return due

    def stop(self) -> None:
        """Answer the calls that wait with an error. When the engine's thread has ended, another one may call this."""
        self._calls.stop()

    def _join(self, host: str, node: str | None, call: AuditCall) -> None:
        """The call waits for the next look, which the next step begins if none runs: the calls of one batch share a look."""
        key = host, node
        look = self._next.get(key)
        if look is None:
            look = self._next[key] = _Look(host, node)
            if key not in self._running:
                self._ready.append(look)
        look.calls[call] = None
        call.looks.append(look.calls)

    def _begin(self, look: _Look) -> None:
        key = look.host, look.node
        del self._next[key]
        if not look.calls:
            return
        self._running.add(key)
        self._inventories.read(look.host, look.node, partial(self._reported, look), partial(self._found, look=look))

    def _found(self, host: str, report: Report, *, look: _Look | None = None) -> None:
        """Something is known of a host's nodes; not on the engine's thread."""
        failed = None if look is None else look.failed
        self._submit(Chore(host=host, commands=[report], done=self._done(report), failed=failed))

    def _done(self, report: Report) -> Callable[[HostLedger], None]:
        outcome = "ok" if report.failure is None else "failed"

        def noted(_host: HostLedger) -> None:
            self._tally.add(self._tally.audits, outcome)
            if isinstance(report, commands.ReportList):
                self._listed()

        return noted

    def _reported(self, look: _Look, report: InventoryReport) -> None:
        """All nodes have answered, and their reports have been submitted; on one of the pool's threads."""
        if report.errors:
            look.failed(report.errors[0])
        done = partial(self._looked, look)
        self._submit(Chore(host=look.host, commands=(), done=done, failed=partial(self._not_decided, look)))

    def _not_decided(self, look: _Look, error: Exception) -> None:
        look.failed(error)
        self._end(look, [])

    def _looked(self, look: _Look, host: HostLedger) -> None:
        """The reports of this look are committed."""
        found: Views = []
        try:
            if look.error is None:
                found = [views.node_view(ledger) for ledger in queries.nodes(host, look.node)]
        except TrackerError as error:
            look.failed(error)
        self._end(look, found)

    def _end(self, look: _Look, found: Views) -> None:
        self._calls.host_done(look.calls, found, look.error)
        key = look.host, look.node
        self._running.discard(key)
        if (following := self._next.get(key)) is not None:
            self._ready.append(following)
