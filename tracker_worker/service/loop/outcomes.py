# SPDX-License-Identifier: Apache-2.0
"""What became of requests: counted for metrics, logged, and kept for those who ask later.

All of it follows the commit and the answers. Events are in the outbox anyway; refusals that made no event are written here,
some of them together. A crash may lose those of the last second: no promise rests on them.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable

from tracker_worker.domain import commands, events, queries
from tracker_worker.domain.decision import Decision
from tracker_worker.errors import StoreUnavailable
from tracker_worker.history import Entry, of_event
from tracker_worker.notifications.asked import Asked
from tracker_worker.service.loop.batch import Batch
from tracker_worker.service.loop.decision_log import log_decisions
from tracker_worker.service.loop.refusal_log import RefusalLog
from tracker_worker.service.loop.reporting import Reporting
from tracker_worker.service.requests.methods import METHODS
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.service.requests.refusals import code_of, of_refusal
from tracker_worker.store.base import Store, Unstorable
from tracker_worker.text import described
from tracker_worker.wire.reply import parks

LOG = logging.getLogger(__name__)

MOST_RECENT = 50
"""The last decisions are shown to those who look at the worker."""
# Refusals that wait for their commit. Of more than this in a second, the last ones are kept.
_MOST_WAITING = 1000
_UNKNOWN = "unknown"
_LOUD = ("parked", "invalid", "not_permitted")

Decided = tuple[commands.Command, Decision, PendingRequest | None]


class Outcomes:
    """Belongs to the engine's thread; any thread may call ``recent``."""

    def __init__(
        self,
        *,
        store: Store,
        reporting: Reporting,
        worker: str,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """``worker`` is this worker's name. ``clock`` gives microseconds, ``monotonic`` seconds."""
        self._store = store
        self._tally = reporting.tally
        self._own = Asked(worker=worker)
        self._refusals_kept = reporting.refusals_kept
        self._clock = clock
        self._monotonic = monotonic
        self._log_fields = reporting.log_fields
        self._tracing = reporting.tracing
        self._recent: deque[tuple[int, Decided | Entry]] = deque(maxlen=MOST_RECENT)
        self._refused: deque[Entry] = deque(maxlen=_MOST_WAITING)
        self._refusal_log = RefusalLog()

    def committed(self, batch: Batch, size: int) -> None:
        """The batch, of ``size`` items, is committed, and its answers are on their way."""
        self._measure(batch, size)
        tally = self._tally
        tally.copies += batch.copies
        for request, error in batch.ended:
            self._count(request, error)
        if self._tracing is not None:
            for request, error in batch.ended:
                self._tracing.end(request, "ok" if error is None else code_of(error), batch)
        for _, decision, _ in batch.decisions:
            for _, event in decision.events:
                self._count_event(event)
        log_decisions(batch.decisions, fields=self._log_fields)
        self._recent.extend((batch.now, decided) for decided in batch.decisions[-MOST_RECENT:] if decided[1].events)
        told = {id(request) for _, decision, request in batch.decisions if request is not None and decision.events}
        for request, error in batch.ended:
            if error is not None and id(request) not in told:
                self._refuse(request, error, batch)

    def ended(self, request: PendingRequest, error: Exception) -> None:
        """The request was not decided: it has ended with ``error``."""
        self._count(request, error)
        if self._tracing is not None:
            self._tracing.end(request, code_of(error), None)
        if not isinstance(error, StoreUnavailable):
            self._refuse(request, error)

    def keep(self) -> None:
        """Write the refusals that wait, and what the log has to say of them. Called once a second. Raises StoreUnavailable:
        then they wait on."""
        self._refusal_log.look(self._monotonic())
        most = self._refusals_kept()
        if not most:
            self._refused.clear()
        if self._refused:
            kept = list(self._refused)
            try:
                self._store.keep_refusals([entry.refusal_row() for entry in kept], most)
            except Unstorable as error:
                LOG.error("%d refusals cannot be kept for the history: %s", len(kept), described(error))
            for _ in kept:
                self._refused.popleft()

    def stop(self) -> None:
        """Export the spans that have ended."""
        if self._tracing is not None:
            self._tracing.stop()

    def recent(self) -> list[Entry]:
        """The last decisions, oldest first."""
        return list(itertools.chain.from_iterable(self._entries(at, each) for at, each in self._recent.copy()))[
            -MOST_RECENT:
        ]

    def _entries(self, at: int, each: Decided | Entry) -> Iterable[Entry]:
        if isinstance(each, Entry):
            return (each,)
        _, decision, request = each
        asked = self._own if request is None else request.asked
        found = (of_event(event, host=node.host, node=node.name, asked=asked) for node, event in decision.events)
        return [entry for entry in found if entry is not None]

    def _measure(self, batch: Batch, size: int) -> None:
        """Requests that came together have waited for the same time."""
        stages, now = self._tally.stages, self._monotonic()
        self._tally.batch_size.observe(size)
        if not batch.ended:
            return
        for received_at, same in itertools.groupby([request.received_at for request, _ in batch.ended]):
            number = sum(1 for _ in same)
            stages["queued"].observe(batch.began - received_at, number)
            stages["decided"].observe(batch.decided - received_at, number)
            stages["committed"].observe(batch.committed - received_at, number)
            stages["answered"].observe(now - received_at, number)

    def _count(self, request: PendingRequest, error: Exception | None) -> None:
        method = request.method if request.method in METHODS else _UNKNOWN
        self._tally.request(method, "ok" if error is None else code_of(error))
        if error is not None and request.reply_to is None and parks(error) and not request.dropped:
            self._tally.add(self._tally.dead_letters, code_of(error))

    def _count_event(self, event: events.Event) -> None:
        tally = self._tally
        match event:
            case events.ClaimBegun():
                pass  # the first one: there are more of them than of all others
            case events.ClaimRejected(shortfalls=shortfalls) | events.MoveRejected(shortfalls=shortfalls):
                for shortfall in shortfalls:
                    tally.add(tally.refusals, shortfall.resource)
            case events.ClaimExpired():
                tally.expired += 1
            case events.UsageDrift() | events.InstancesDrift():
                tally.drift += 1
            case _:
                pass

    def _refuse(self, request: PendingRequest, error: Exception, batch: Batch | None = None) -> None:
        """Note a refusal that made no event."""
        parked = request.reply_to is None and parks(error) and not request.dropped
        operation = request.operation
        host = operation.hosts[0] if operation is not None and len(operation.hosts) == 1 else request.delivery.source
        entry = of_refusal(
            error,
            at=self._clock() if batch is None else batch.now,
            host=host,
            node=_node(request),
            instance_uuid=_instance(request),
            asked=_with_method(request),
            parked=parked,
        )
        self._refused.append(entry)
        self._recent.append((entry.at, entry))
        if entry.outcome in _LOUD:
            self._refusal_log.refused(entry, self._monotonic())


def _with_method(request: PendingRequest) -> Asked:
    asked = request.asked
    asked.method = asked.method or request.method
    return asked


def _instance(request: PendingRequest) -> str:
    """The instance that the request is about, or ''."""
    action = None if request.operation is None else request.operation.action
    match action:
        case commands.BeginClaim(instance=instance) | commands.BeginMove(begin=commands.BeginClaim(instance=instance)):
            return instance.uuid
        case commands.UpdateUsage(uuid=uuid) | commands.ReleaseAllocation(uuid=uuid) | queries.GetAllocation(uuid=uuid):
            return uuid
        case _:
            return request.instance_uuid


def _node(request: PendingRequest) -> str:
    action = None if request.operation is None else request.operation.action
    node = getattr(action, "node", None)
    return node if isinstance(node, str) else ""
