# SPDX-License-Identifier: Apache-2.0
"""The serial loop: it decides every change of a ledger, in the order of arrival, with one commit for everything that has
arrived.

A worker with a lock per node and a pool of threads would be the usual design. In Python those threads share one
interpreter, so they do not decide faster. Each message would need a commit and a confirm of its own, and the thread that
wakes first would decide the order of two messages for a node. The loop keeps the order and needs one commit for many
messages; a single message still waits for one commit only. Only the store can block the loop. Drivers run on threads of
their own, and their reports come back as commands. Sending never waits for the broker.

A commit fails if another worker was first or if the store is unavailable. Then the loop forgets the ledgers of the batch,
reads them again, and decides the batch again; it never repairs a ledger in memory. One host holds up only itself: a batch that
cannot be committed because of one of its hosts is split by host, and a host that has lost two races is decided under lock. The
loop sends no reply and acknowledges no message before the commit. After a crash at any point, the broker delivers every
unacknowledged message again. If the inbox has a row for the message, the worker sends the recorded reply once more; otherwise
it decides the message.

``step`` is one pass of the loop. It never sleeps. What waits for the store is kept in ``_backlog``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tracker_worker.bus.base import FANOUT, Bus
from tracker_worker.counters import Counters
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.chores.audits import Audits
from tracker_worker.service.chores.leases import Leases
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.loop.arrivals import Arrivals, Task
from tracker_worker.service.loop.attempt import Attempts
from tracker_worker.service.loop.backlog import Backlog, Lane
from tracker_worker.service.loop.batch import Batch, Unexpected
from tracker_worker.service.loop.failures import Failures
from tracker_worker.service.loop.outage import Outage
from tracker_worker.service.loop.outcomes import Outcomes
from tracker_worker.service.loop.recovery import Recovery
from tracker_worker.service.requests.items import Chore, Item, divided
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.base import AnotherHistory, Conflict, HostLocked, Store, Unstorable
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.text import described
from tracker_worker.threads import soonest

LOG = logging.getLogger(__name__)

# While the store is unavailable, the engine looks this often for calls that are about to expire.
_CHECK_SECONDS = 0.25
# Under lock, no race can be lost; should it happen all the same, there is a pause before each further attempt.
_MOST_LOST_RACES = 3


class Engine:
    """Any thread may call ``undecided``; everything else happens on the thread that makes a pass, one at a time."""

    def __init__(
        self,
        *,
        arrivals: Arrivals,
        store: Store,
        bus: Bus,
        ledgers: Ledgers,
        attempts: Attempts,
        backlog: Backlog,
        recovery: Recovery,
        outage: Outage,
        relay: Relay,
        leases: Leases,
        audits: Audits,
        outcomes: Outcomes,
        counters: Counters,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """``clock`` returns microseconds, ``monotonic`` seconds."""
        self._bus = bus
        self._attempts = attempts
        self._recovery = recovery
        self._relay = relay
        self._leases = leases
        self._audits = audits
        self._outcomes = outcomes
        self._counters = counters
        self._monotonic = monotonic
        self._arrivals = arrivals
        self._backlog = backlog
        self._outage = outage
        self._failures = Failures(
            store=store,
            bus=bus,
            ledgers=ledgers,
            backlog=self._backlog,
            outage=self._outage,
            ended=outcomes.ended,
            counters=counters,
            clock=clock,
            monotonic=monotonic,
        )

    def undecided(self) -> list[PendingRequest]:
        """A copy of the requests that are not decided. Any thread."""
        return self._backlog.requests(self._arrivals.copy())

    def step(self, now: float) -> float | None:
        """One pass of the loop. Returns the seconds until the next pass is due; None: it is due when something arrives.

        A pass waits at most once for a store that turns out to be unavailable. Between two such waits, the calls that
        cannot wait for another one are answered.
        """
        self._outage.in_this_pass = False
        self._take()
        due = self._work(now)
        if self._outage.in_this_pass:
            return 0.0
        if self._audits.busy:
            due = soonest(due, self._audits.step(self._monotonic()))
        return soonest(due, self._publish(now))

    def is_idle(self, requests: Sequence[PendingRequest], now: float) -> bool:
        """Whether a pass would have these requests to decide, which have come alone, and nothing else to do or to read."""
        return not (
            self._arrivals
            or len(self._backlog)
            or self._outage.error is not None
            or self._audits.busy
            or self._leases.wanted
            or self._relay.has_to_access(now)
            or any(request.delivery.source not in self._leases.settled for request in requests)
            or not self._attempts.is_ready(requests)
        )

    def decide(self, requests: Sequence[PendingRequest], now: float) -> float | None:
        """One attempt at these requests alone, if the engine ``is_idle``; see ``step``. What fails is left to the next step."""
        self._outage.in_this_pass = False
        self._accept(requests)
        self._try(self._backlog.common, goes_on=False)
        if len(self._backlog) or self._outage.in_this_pass or self._relay.has_to_access(now):
            return 0.0
        return self._publish(now)

    def _publish(self, now: float) -> float | None:
        due = self._relay.step(now)
        if self._relay.outage is not None:
            self._outage.note(*self._relay.outage)
            return 0.0
        return due

    def _take(self) -> None:
        """Take what has arrived, and run its tasks. What a task submits is taken in the next step, so that a task of many
        steps does not delay requests. After a task to which the store was unavailable, later tasks wait for the next step."""
        tasks: list[Task] = []
        for arrival in self._arrivals.take():
            if isinstance(arrival, Chore):
                self._backlog.add([arrival])
            elif callable(arrival):
                tasks.append(arrival)
            else:
                self._accept(arrival)
        if self._outage.error is not None or self._backlog.is_held_up:
            self._failures.end_late_calls()
        if self._leases.wanted:
            tasks.append(self._leases.take)
        for position, task in enumerate(tasks, 1):
            self._do(task)
            if self._outage.in_this_pass:
                self._arrivals.put_off(tasks[position:])
                return

    def _accept(self, requests: Sequence[PendingRequest]) -> None:
        sources = {request.delivery.source for request in requests}
        if not sources <= self._leases.settled:
            self._leases.heard(sources)
        if FANOUT in sources:
            requests = [self._leases.share(request) for request in requests]
        for request in requests:
            self._backlog.add(divided(request))

    def drop_lost(self) -> None:
        """The consuming connection is gone: drop the requests that came over it, as they come again."""
        self._leases.connection_lost()
        self._failures.drop_lost()

    def _do(self, task: Task) -> None:
        began = self._monotonic()
        self._arrivals.called(task)
        try:
            try:
                task()
            except AnotherHistory as another:
                self._recovery.recover(another)
        except Conflict as conflict:
            LOG.warning("a chore is put off: %s", conflict)
        except StoreUnavailable as error:
            LOG.info("a chore is put off: %s", error)
            self._outage.note(error, self._monotonic() - began)

    def _work(self, now: float) -> float | None:
        """Make the attempts that are due. Returns the seconds until the next one; None: nothing is left to decide."""
        for lane in self._backlog.lanes():
            if lane.items and now >= lane.resume_at and not self._outage.in_this_pass:
                self._try(lane)
                self._backlog.attempted(lane)
        left = [lane.resume_at for lane in self._backlog.lanes() if lane.items]
        if not left:
            if self._outage.error is not None and not self._outage.in_this_pass:
                self._outage.over()
            return None
        return min(max(0.0, min(left) - self._monotonic()), _CHECK_SECONDS)

    def _try(self, lane: Lane, *, goes_on: bool = True) -> None:
        """One attempt at the next items of the lane. ``goes_on``: another history is gone on with at once."""
        began = self._monotonic()
        items = lane.next()
        try:
            batch = self._attempts.make(lane, items, self._relay.moved)
        except AnotherHistory as another:
            if goes_on:
                self._recover(lane, another, began)
        except Conflict as conflict:
            self._outage.over()
            self._counters.add("conflicts")
            lane.lost_races += 1
            self._counters.raise_to("most_lost_races", lane.lost_races)
            LOG.info("another worker was first (%s); deciding again", conflict)
            if lane.lost_races > _MOST_LOST_RACES:
                lane.pause(self._monotonic())
            if lane is self._backlog.common:
                self._backlog.split(lane.lost_races)
        except StoreUnavailable as error:
            self._put_off(lane, error, began)
        except (Unstorable, Unexpected) as failure:
            self._failed(lane, items, failure)
        else:
            batch.committed = self._monotonic()
            if batch.parts:
                batch.join()
            for request in batch.heartbeats_to_end:
                request.end_heartbeat()
            if batch.outgoing:
                self._bus.sender.send(batch.outgoing)  # as soon as possible: the callers wait for it
            lane.finish(items)
            if self._outage.error is not None and lane is not self._backlog.free:
                self._outage.over()
            self._after_commit(batch, len(items))

    def _recover(self, lane: Lane, another: AnotherHistory, began: float) -> None:
        """Go on in another history, in which the items of the lane are decided again."""
        try:
            self._recovery.recover(another)
        except StoreUnavailable as error:
            self._put_off(lane, error, began)
        except Conflict as conflict:
            LOG.warning("the history cannot be settled now: %s", conflict)
            lane.pause(self._monotonic())

    def _put_off(self, lane: Lane, error: StoreUnavailable, began: float) -> None:
        """The store was unavailable to the attempt. If only a host was locked, the other hosts go on."""
        now = self._monotonic()
        if isinstance(error, HostLocked):
            self._outage.in_this_pass = True
            if lane is self._backlog.common:
                self._backlog.split(0)
                return
        else:
            self._outage.note(error, now - began)
        delay = lane.store_unavailable(error, began, now)
        if lane is self._backlog.common:
            self._backlog.set_free()
        LOG.log(lane.level, "%s; %d messages wait, again in %g s", error, len(self._backlog), delay)

    def _failed(self, lane: Lane, items: Sequence[Item], failure: Unstorable | Unexpected) -> None:
        """The attempt failed because of one of the items, or because of their number."""
        began = self._monotonic()
        try:
            if isinstance(failure, Unexpected):
                LOG.error("unexpected error while deciding: %s", described(failure.error))
                self._failures.fail(lane, failure.item, failure.error)
            else:
                self._outage.over()
                self._failures.unstorable(lane, items, failure)
        except AnotherHistory as another:
            self._recover(lane, another, began)
        except StoreUnavailable as error:
            self._put_off(lane, error, began)

    def _after_commit(self, batch: Batch, size: int) -> None:
        """Do what follows the answers to ``size`` items: bookkeeping, notifications, the log and audits."""
        if batch.commits:
            self._outage.written()
            self._attempts.committed(batch)
            self._relay.written(batch.cursors)
            if publications := self._relay.offer(batch.unit.notifications):
                self._bus.sender.send(publications)
        self._outcomes.committed(batch, size)
        self._attempts.end_chores(batch)
        self._audits.begin_all(batch.audits)
