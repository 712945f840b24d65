# SPDX-License-Identifier: Apache-2.0
"""The serial loop: everything that changes a ledger happens here, in order, with one commit for all that has arrived.

The naive worker takes a lock per node in a pool of threads. In Python those threads share one interpreter anyway; each message
would pay its own commit and its own confirm, the order of two messages for a node would be decided by the thread that wakes
first, and a slow holder would starve the others. One loop has the order by construction and pays one commit for many messages,
while an idle worker's latency stays at one commit. What could block the loop is kept out of it: drivers run on threads of their
own and come back as commands, and publishing is another thread's.

The unhappy path is a commit that failed, because another worker was first or because the store is unavailable. Then the touched
ledgers are forgotten, read again, and the batch is decided again. Ledgers are never patched. No reply is sent and no message is
acknowledged before the commit, so a crash anywhere leaves either a message that is redelivered, or its row in the inbox and its
reply to be sent once more.

The loop is ``step``: it never sleeps and never reads a clock by itself. A batch that waits is state.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tracker_worker.bus.base import Bus, Settlement
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.chores.audits import Audits
from tracker_worker.service.chores.leases import Leases
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.loop.backlog import Backlog, Retry
from tracker_worker.service.loop.batch import Batch, Decider, Unexpected
from tracker_worker.service.loop.decision_log import log_decisions
from tracker_worker.service.loop.inbox import Inbox
from tracker_worker.service.requests.items import Chore, Item, hosts_of
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.base import Conflict, InboxRow, Store, Unstorable
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.wire.reply import answer, parking_reason, parks

LOG = logging.getLogger(__name__)

# While the store is away, calls that are about to expire are looked for this often.
_CHECK_SECONDS = 0.25
# A call that would be answered later than this before its deadline gets StoreUnavailable.
_MARGIN_SECONDS = 0.5
# A cast whose handling fails unexpectedly is tried this often.
_MOST_ATTEMPTS = 3

Task = Callable[[], None]


class Engine:
    """``submit`` and ``run`` may be called from any thread; everything else happens on the thread that calls ``step``."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        ledgers: Ledgers,
        inbox: Inbox,
        decider: Decider,
        relay: Relay | None,
        leases: Leases,
        audits: Audits,
        retry: Retry,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        """``relay`` None: notifications are switched off, neither kept nor published. ``clock`` gives microseconds,
        ``monotonic`` seconds. ``wake`` has ``step`` called soon."""
        self._store = store
        self._bus = bus
        self._ledgers = ledgers
        self._inbox = inbox
        self._decider = decider
        self._relay = relay
        self._leases = leases
        self._audits = audits
        self._retry = retry
        self._clock = clock
        self._monotonic = monotonic
        self._wake = wake
        self._arrivals: deque[Sequence[PendingRequest] | Chore | Task] = deque()
        self._backlog = Backlog()

    # --- from any thread ---------------------------------------------------------------------------------------------

    def submit(self, item: Sequence[PendingRequest] | Chore) -> None:
        """Decide this after everything that was submitted before."""
        self._arrivals.append(item)
        self._wake()

    def run(self, task: Task) -> None:
        """Call ``task`` between two batches. A task that meets an unavailable store or another writer is put off: a warning is
        logged, and whoever runs it periodically runs it again."""
        self._arrivals.append(task)
        self._wake()

    # --- the loop ----------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether a batch waits for the store: it may have been committed, unnoticed."""
        return len(self._backlog) > 0

    def step(self, now: float) -> float | None:
        """One pass of the loop. Returns after how many seconds the next one is due; None: when something arrives."""
        self._take()
        due = self._work(now)
        if self._relay is None or self._retry.away is not None:
            return due  # the relay would block on the store while calls wait to be answered
        relay_due = self._relay.step(now)
        return min((wait for wait in (due, relay_due) if wait is not None), default=None)

    def _take(self) -> None:
        """Everything that has arrived, but not what its tasks submit: a chore in many steps must not delay the requests."""
        for _ in range(len(self._arrivals)):
            arrival = self._arrivals.popleft()
            if isinstance(arrival, Chore):
                self._backlog.add([arrival])
            elif callable(arrival):
                with put_off():
                    arrival()
            else:
                self._backlog.add(arrival)

    def _work(self, now: float) -> float | None:
        """Make the attempt that is due. Returns the seconds until the next one; None: nothing is left to decide."""
        retry = self._retry
        if retry.away is not None:
            self._end_late_calls(retry.away, max(0.0, retry.resume_at - now) + retry.attempt_seconds)
        items = self._backlog.next()
        if not items:
            return None
        if now >= retry.resume_at:
            self._try(items)
            if not self._backlog.next():
                return None
        return min(max(0.0, retry.resume_at - self._monotonic()), _CHECK_SECONDS)

    def _try(self, items: list[Item]) -> None:
        retry, began = self._retry, self._monotonic()
        try:
            self._process(items)
        except Conflict as conflict:
            LOG.info("another worker was first (%s); deciding again", conflict)
            self._ledgers.forget(hosts_of(items))
            retry.conflict(self._monotonic())
        except StoreUnavailable as error:
            self._ledgers.forget(hosts_of(items))
            delay = retry.store_away(error, began=began, now=self._monotonic())
            LOG.warning("%s; %d messages wait, again in %g s", error, len(self._backlog), delay)
        except Unstorable as error:
            self._ledgers.forget(hosts_of(items))
            if len(items) > 1:
                self._backlog.split()
            else:
                LOG.error("a message cannot be stored", exc_info=error)
                self._fail(items[0], error)
        except Unexpected as unexpected:
            self._ledgers.forget(hosts_of(items))
            LOG.error("unexpected error while deciding", exc_info=unexpected.error)
            self._fail(unexpected.item, unexpected.error)
        else:
            self._backlog.finish()
            retry.succeeded()

    def _process(self, items: list[Item]) -> None:
        """Decide, commit, and send. Raises Conflict, StoreUnavailable, Unstorable, Unexpected; nothing has been sent then."""
        batch = self._decider.decide(items, after_conflict=self._retry.conflicts > 0)
        rows = self._inbox.rows(batch.inbox_rows)
        commits = bool(batch.unit.changed) or self._inbox.full(rows)
        self._verify(batch, commits)
        cursors: dict[int, int] = {}
        if commits:
            cursors = {} if self._relay is None else dict(self._relay.moved)
            try:
                batch.unit.commit(inbox_rows=rows, cursors=cursors)
            except Conflict:
                self._inbox.recheck()
                raise
        for request in batch.concluded:
            request.end_heartbeat()
        if batch.outgoing:
            self._bus.sender.send(batch.outgoing)
        self._conclude(batch, rows, cursors, commits)

    def _verify(self, batch: Batch, commits: bool) -> None:
        """Check what the commit does not: that answers without a change rest on ledgers as the store has them, and that
        messages which no commit records are new. Raises Conflict, StoreUnavailable."""
        batch.unit.verify()
        if self._retry.conflicts:
            return  # copies were looked up in the store before they were decided
        unrecorded = list(batch.unrecorded)
        if not commits:
            unrecorded += [message.unique_id for message in batch.inbox_rows]
        if unrecorded and self._inbox.look_up(unrecorded):
            raise Conflict("a message is answered already")

    def _conclude(self, batch: Batch, rows: list[InboxRow], cursors: dict[int, int], committed: bool) -> None:
        """The batch holds and its replies are on their way: the bookkeeping, the notifications, and what follows from them."""
        batch.unit.committed()
        self._inbox.keep(rows, committed=committed)
        if self._relay is not None:
            self._relay.written(cursors)
            publications = self._relay.offer(batch.unit.notifications)
            if publications:
                self._bus.sender.send(publications)
        if not self._leases.cover(batch.active):
            with put_off():
                self._leases.take(batch.active, batch.now)
        log_decisions(batch.decisions)
        for chore in batch.chores:
            if chore.done is not None:
                chore.done(self._ledgers.get(chore.host))
        for request in batch.audits:
            self._audits.begin(request)

    # --- what does not go well ---------------------------------------------------------------------------------------

    def _end_late_calls(self, error: StoreUnavailable, seconds: float) -> None:
        """Answer the calls that cannot wait for so long."""

        def waits(item: Item) -> bool:
            if isinstance(item, Chore) or item.deadline - now > seconds + _MARGIN_SECONDS:
                return True
            if item.deadline <= now:
                item.end_heartbeat()
                self._bus.sender.send([Settlement(delivery=item.delivery)])
            else:
                self._end(item, error)
            return False

        now = self._monotonic()
        self._backlog.keep(waits)

    def _fail(self, item: Item, error: Exception) -> None:
        """Deciding or storing this item failed unexpectedly. A call gets the error immediately. A cast is tried a few times,
        counted in the store so that a restart does not begin anew, and then parked."""
        if isinstance(item, PendingRequest) and item.reply_to is None and item.unique_id is not None:
            try:
                again = self._store.count_attempt(item.unique_id, self._clock()) < _MOST_ATTEMPTS
            except StoreUnavailable as away:
                LOG.warning("%s", away)
                again = True
            if again:
                self._retry.pause(self._monotonic())
                return
        self._backlog.keep(lambda other: other is not item)
        if isinstance(item, PendingRequest):
            self._end(item, error)
        elif item.failed is not None:
            item.failed(error)

    def _end(self, request: PendingRequest, error: Exception) -> None:
        request.end_heartbeat()
        reason = parking_reason(error) if parks(error) else ""
        self._bus.sender.send([request.conclusion(answer(request.reply_to, error=error), reason)])


@contextmanager
def put_off() -> Iterator[None]:
    """A chore that meets an unavailable store or another writer is done the next time."""
    try:
        yield
    except (StoreUnavailable, Conflict) as error:
        LOG.warning("a chore is put off: %s", error)
