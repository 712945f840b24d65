# SPDX-License-Identifier: Apache-2.0
"""The serial loop: it decides every change of a ledger, in the order of arrival, with one commit for everything that has
arrived.

A worker with a lock per node and a pool of threads would be the usual design. In Python those threads share one
interpreter, so they do not decide faster. Each message would need a commit and a confirm of its own, and the thread that
wakes first would decide the order of two messages for a node. The loop keeps the order and needs one commit for many
messages; a single message still waits for one commit only. Only the store can block the loop. Drivers run on threads of
their own, and their reports come back as commands. Sending never waits for the broker.

A commit fails if another worker was first or if the store is unavailable. Then the loop forgets the ledgers of the batch,
reads them again, and decides the batch again; it never repairs a ledger in memory. The loop sends no reply and acknowledges
no message before the commit. After a crash at any point, the broker delivers every unacknowledged message again. If the inbox
has a row for the message, the worker sends the recorded reply once more; otherwise it decides the message.

``step`` is one pass of the loop. It never sleeps. A batch that waits for the store is kept in ``_backlog``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

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
from tracker_worker.store.base import Conflict, Store, Unstorable
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.text import described
from tracker_worker.wire.reply import answer, parking_reason, parks

LOG = logging.getLogger(__name__)

# While the store is unavailable, the engine looks this often for calls that are about to expire.
_CHECK_SECONDS = 0.25
# A call gets StoreUnavailable if its answer could come later than this time before its deadline.
_MARGIN_SECONDS = 0.5
# The engine makes this many attempts at a cast whose handling fails unexpectedly; then it parks the cast.
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
        """``relay`` None: notifications are switched off; they are neither stored nor published. ``clock`` returns
        microseconds, ``monotonic`` seconds. ``wake`` causes a call of ``step`` soon."""
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
        """Decide ``item`` after every item that was submitted before it."""
        self._arrivals.append(item)
        self._wake()

    def run(self, task: Task) -> None:
        """Call ``task`` between two batches. If the task raises StoreUnavailable or Conflict, a warning is logged; the caller
        that runs the task periodically runs it again."""
        self._arrivals.append(task)
        self._wake()

    # --- the loop ----------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether a batch waits for the store. The commit of such a batch may have succeeded without the worker's knowledge."""
        return self._retry.in_doubt

    def step(self, now: float) -> float | None:
        """One pass of the loop. Returns the seconds until the next pass is due; None: it is due when something arrives.

        A pass waits at most once for a store that turns out to be unavailable. Between two such waits, the calls that
        cannot wait for another one are answered.
        """
        if not self._take():
            return 0.0
        due = self._work(now)
        if self._relay is None or self._retry.unavailable is not None:
            return due
        relay_due = self._relay.step(now)
        if self._relay.outage is not None:
            self._retry.outage(*self._relay.outage)
            return 0.0
        return min((wait for wait in (due, relay_due) if wait is not None), default=None)

    def _take(self) -> bool:
        """Take what has arrived, and run its tasks. What a task submits is taken in the next step, so that a task of many
        steps does not delay requests. Returns False if the store was unavailable to a task; later tasks then wait for the
        next step."""
        tasks: list[Task] = []
        for _ in range(len(self._arrivals)):
            arrival = self._arrivals.popleft()
            if isinstance(arrival, Chore):
                self._backlog.add([arrival])
            elif callable(arrival):
                tasks.append(arrival)
            else:
                self._backlog.add(arrival)
        self._end_late_calls()
        for position, task in enumerate(tasks, 1):
            if not self._do(task):
                self._arrivals.extend(tasks[position:])
                return False
        return True

    def _do(self, task: Task) -> bool:
        """Run ``task``. Returns False if the store was unavailable to it."""
        began = self._monotonic()
        try:
            task()
        except Conflict as conflict:
            LOG.warning("a chore is put off: %s", conflict)
        except StoreUnavailable as error:
            LOG.warning("a chore is put off: %s", error)
            self._retry.outage(error, self._monotonic() - began)
            return False
        return True

    def _work(self, now: float) -> float | None:
        """Make the attempt that is due. Returns the seconds until the next one; None: nothing is left to decide."""
        retry = self._retry
        if now >= retry.resume_at and (items := self._backlog.next()):
            self._try(items)
        if not self._backlog:
            retry.reset()
            return None
        return min(max(0.0, retry.resume_at - self._monotonic()), _CHECK_SECONDS)

    def _try(self, items: list[Item]) -> None:
        retry = self._retry
        retry.begin(self._monotonic())
        try:
            batch = self._process(items)
        except Conflict as conflict:
            LOG.info("another worker was first (%s); deciding again", conflict)
            self._ledgers.forget(hosts_of(items))
            retry.conflict(self._monotonic())
        except StoreUnavailable as error:
            self._ledgers.forget(hosts_of(items))
            delay = retry.store_unavailable(error, self._monotonic())
            LOG.warning("%s; %d messages wait, again in %g s", error, len(self._backlog), delay)
        except Unstorable as error:
            self._ledgers.forget(hosts_of(items))
            if len(items) > 1:
                self._backlog.split()
            else:
                LOG.error("a message cannot be stored: %s", described(error))
                self._fail(items[0], error)
        except Unexpected as unexpected:
            self._ledgers.forget(hosts_of(items))
            LOG.error("unexpected error while deciding: %s", described(unexpected.error))
            self._fail(unexpected.item, unexpected.error)
        else:
            self._backlog.finish()
            retry.succeeded()
            self._after_commit(batch)

    def _process(self, items: list[Item]) -> Batch:
        """Decide, commit, and send. Raises Conflict, StoreUnavailable, Unstorable, Unexpected; in these cases nothing was
        sent."""
        batch = self._decider.decide(items, after_conflict=self._retry.conflicts > 0)
        batch.rows = self._inbox.rows(batch.inbox_rows)
        batch.commits = bool(batch.unit.changed) or self._inbox.full(batch.rows)
        self._verify(batch)
        if batch.commits:
            if self._relay is not None:
                batch.cursors = dict(self._relay.moved)
            try:
                batch.unit.commit(inbox_rows=batch.rows, cursors=batch.cursors)
            except Conflict:
                self._inbox.recheck()
                raise
        for request in batch.heartbeats_to_end:
            request.end_heartbeat()
        if batch.outgoing:
            self._bus.sender.send(batch.outgoing)
        return batch

    def _verify(self, batch: Batch) -> None:
        """Check what the commit does not check: that the ledgers behind every answer without a change have the generations
        in the store, and that no message which this commit does not record was answered before. Raises Conflict,
        StoreUnavailable."""
        batch.unit.verify()
        if self._retry.conflicts:
            return  # after a conflict the decider has looked up the copies in the store
        unrecorded = list(batch.unrecorded)
        if not batch.commits:
            unrecorded += [message.unique_id for message in batch.inbox_rows]
        if unrecorded and self._inbox.look_up(unrecorded):
            raise Conflict("a message is answered already")

    def _after_commit(self, batch: Batch) -> None:
        """Do what follows a commit, after the replies were sent: bookkeeping, notifications, leases, the log and audits."""
        batch.unit.committed()
        self._inbox.keep(batch.rows, committed=batch.commits)
        if self._relay is not None:
            self._relay.written(batch.cursors)
            publications = self._relay.offer(batch.unit.notifications)
            if publications:
                self._bus.sender.send(publications)
        if not self._leases.cover(batch.active):
            self._do(partial(self._leases.take, batch.active, batch.now))
        log_decisions(batch.decisions)
        for chore in batch.chores:
            if chore.done is not None:
                chore.done(self._ledgers.get(chore.host))
        for request in batch.audits:
            self._audits.begin(request)

    # --- failures of single items ---------------------------------------------------------------------------------------

    def _end_late_calls(self) -> None:
        """While the store is unavailable, answer the calls that cannot wait for the end of another attempt."""
        error, now = self._retry.unavailable, self._monotonic()
        if error is None:
            return
        latest = max(now, self._retry.resume_at) + self._retry.attempt_seconds + _MARGIN_SECONDS

        def waits(item: Item) -> bool:
            if isinstance(item, Chore) or item.deadline > latest:
                return True
            if item.deadline <= now:
                item.end_heartbeat()
                self._bus.sender.send([Settlement(delivery=item.delivery)])
            else:
                self._end(item, error)
            return False

        self._backlog.keep(waits)

    def _fail(self, item: Item, error: Exception) -> None:
        """Handle an item whose decision or storage failed unexpectedly. A call gets the error immediately. A cast gets several
        attempts and is then parked; the store counts the attempts, so that a restart does not start the count again."""
        if isinstance(item, PendingRequest) and item.reply_to is None and item.unique_id is not None:
            try:
                attempts = self._store.count_attempt(item.unique_id, self._clock())
            except StoreUnavailable as unavailable:
                LOG.warning("%s", unavailable)
                self._retry.store_unavailable(unavailable, self._monotonic())
                return
            if attempts < _MOST_ATTEMPTS:
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
