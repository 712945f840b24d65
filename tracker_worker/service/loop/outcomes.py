# SPDX-License-Identifier: Apache-2.0
"""What became of requests: counted for metrics, logged, traced, and kept for those who ask later.

All of it follows the commit and the answers, and no promise rests on it. Events are in the outbox anyway; the refusals that
made none are in ``kept_refusals``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from tracker_worker.domain import events, queries
from tracker_worker.errors import StoreUnavailable
from tracker_worker.history import Entry, of_event
from tracker_worker.ids import NewIds
from tracker_worker.notifications.asked import Asked
from tracker_worker.service.loop.batch import Batch
from tracker_worker.service.loop.decision_log import log_decisions
from tracker_worker.service.loop.kept_refusals import KeptRefusals
from tracker_worker.service.loop.refusal_log import RefusalLog
from tracker_worker.service.loop.reporting import Reporting
from tracker_worker.service.requests.methods import METHODS
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.service.requests.refusals import CallExpired, code_of, is_parked, of_request
from tracker_worker.store.base import Store

MOST_RECENT = 50
"""The last decisions are shown to those who look at the worker."""
_UNKNOWN = "unknown"
_LOUD = ("parked", "invalid", "not_permitted")
_OK = "ok"
_COPY = "copy"

Told = tuple[events.Event, str, str, Asked]
"""An event, the names of its host and its node, and who asked."""


class Outcomes:
    """Belongs to the engine's thread; any thread may call ``recent``."""

    def __init__(
        self,
        *,
        store: Store,
        reporting: Reporting,
        notify: bool,
        new_id: NewIds,
        worker: str,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """``notify`` False: no event is in the outbox. ``worker`` is this worker's name. ``clock`` gives microseconds,
        ``monotonic`` seconds."""
        self._tally = reporting.tally
        self._own = Asked(worker=worker)
        self._notify = notify
        self._clock = clock
        self._monotonic = monotonic
        self._log_fields = reporting.log_fields
        self._tracing = reporting.tracing
        self._recent: deque[Told | Entry] = deque(maxlen=MOST_RECENT)
        self._kept = KeptRefusals(store, most=reporting.refusals_kept, new_id=new_id)
        self._refusal_log = RefusalLog()

    def committed(self, batch: Batch, size: int) -> None:
        """The batch, of ``size`` items, is committed, and its answers are on their way."""
        self._measure(batch, size)
        self._tally.copies += batch.copies
        for code in batch.parked_copies:
            self._tally.add(self._tally.dead_letters, code)
        for request, error in batch.ended:
            self._count(request, error)
        if self._tracing is not None:
            for request, error in batch.ended:
                self._tracing.end(request, _OK if error is None else code_of(error), batch)
            for request in batch.unmentioned:
                self._tracing.end(request, _COPY, batch)
        self._note_events(batch)
        log_decisions(batch.decisions, fields=self._log_fields)
        told = self._told(batch)
        for request, error in batch.ended:
            if error is not None and id(request) not in told and not isinstance(error, CallExpired):
                self._refuse(request, error, batch.now)

    def ended(self, request: PendingRequest, error: Exception) -> None:
        """The request was not decided: it has ended with ``error``."""
        self._count(request, error)
        if self._tracing is not None:
            self._tracing.end(request, code_of(error), None)
        if not isinstance(error, StoreUnavailable):
            self._refuse(request, error, self._clock())

    def keep(self, *, available: bool) -> bool:
        """Write the refusals that wait, if the store is ``available``, and what the log has to say of them. Called once a
        second. Returns False if the store turned out to be away, which may have taken long."""
        self._refusal_log.look(self._monotonic())
        return self._kept.keep() if available else True

    def stop(self) -> None:
        """The same for the last time."""
        self._refusal_log.end()
        self._kept.keep()

    def recent(self) -> list[Entry]:
        """The last decisions, oldest first."""
        found = (
            each if isinstance(each, Entry) else of_event(each[0], host=each[1], node=each[2], asked=each[3])
            for each in self._recent.copy()
        )
        return [entry for entry in found if entry is not None]

    def _told(self, batch: Batch) -> set[int]:
        """The ids of the requests whose decisions are in the outbox."""
        if not self._notify:
            return set()
        return {id(request) for _, decision, request in batch.decisions if request is not None and decision.events}

    def _measure(self, batch: Batch, size: int) -> None:
        """Requests that came together have waited for the same time."""
        if batch.ended or batch.decisions:
            self._tally.batch_size.observe(size)
        if not batch.ended:
            return
        stages, now = self._tally.stages, self._monotonic()
        for received_at, number in Counter(request.received_at for request, _ in batch.ended).items():
            stages["queued"].observe(batch.began - received_at, number)
            stages["decided"].observe(batch.decided - received_at, number)
            stages["committed"].observe(batch.committed - received_at, number)
            stages["answered"].observe(now - received_at, number)

    def _count(self, request: PendingRequest, error: Exception | None) -> None:
        method = request.method if request.method in METHODS else _UNKNOWN
        self._tally.request(method, _OK if error is None else code_of(error))
        if error is not None and is_parked(request, error):
            self._tally.add(self._tally.dead_letters, code_of(error))

    def _note_events(self, batch: Batch) -> None:
        tally, recent = self._tally, self._recent
        for _, decision, request in batch.decisions:
            for node, event in decision.events:
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
                        continue
                    case events.UsageExists() | events.PeriodClosed():
                        continue
                    case _ if isinstance(event, events.UNPUBLISHED):
                        continue
                    case _:
                        pass
                recent.append((event, node.host, node.name, self._own if request is None else request.asked))

    def _refuse(self, request: PendingRequest, error: Exception, at: int) -> None:
        """Note a refusal that made no event. A question that was refused is no decision: it is only said, if it is wrong."""
        now = self._monotonic()
        entry = of_request(request, error, at=at, now=now)
        action = None if request.operation is None else request.operation.action
        if not isinstance(action, queries.Query | queries.StoredQuery):
            self._kept.add(entry)
            self._recent.append(entry)
        if entry.outcome in _LOUD:
            self._refusal_log.refused(entry, now)
