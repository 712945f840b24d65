# SPDX-License-Identifier: Apache-2.0
"""The serial loop: everything that changes a ledger happens here, in order, one commit for all that has arrived.

The naive worker takes a lock per node in a pool of threads. In Python those threads share one interpreter anyway; each
message would pay its own commit and its own confirm, the order of two messages for a node would be decided by whichever
thread wakes first, and a slow holder would starve the rest. One loop has the order by construction and pays one commit for
many messages, while an idle worker's latency stays at one commit. What could block it is kept out of it: drivers run on
threads of their own and come back as commands, and publishing is another thread's.

The unhappy path is a commit that failed, because somebody else was first or because the store is away. Then the touched
ledgers are thrown away, read again, and the batch is decided again. They are never patched. Nothing is told to anybody and
nothing is acknowledged before the commit, so a crash anywhere leaves either a message that comes again, or its record in the
inbox and its reply to be sent once more.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tracker_worker import faults
from tracker_worker.bus.base import Bus
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.chores.audits import Audits
from tracker_worker.service.chores.inventories import Auditor
from tracker_worker.service.chores.leases import Leases
from tracker_worker.service.chores.pruning import Pruning
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.loop.batch import Batch, Chore, Decider, Item, Unexpected, hosts_of
from tracker_worker.service.loop.decision_log import log_decisions
from tracker_worker.service.loop.inbox import Inbox
from tracker_worker.service.requests.pending import Work, answer, conclude, dismiss
from tracker_worker.store.base import Commit, Conflict, Store, Unstorable
from tracker_worker.store.ledgers import Ledgers

LOG = logging.getLogger(__name__)

# Cursors ride with commits; after so long without one they get a commit of their own. For as long confirms may wait to be
# looked at: nobody wakes the engine for them.
_FLUSH_SECONDS = 0.2
_FIRST_DELAY_SECONDS = 0.05
_LONGEST_DELAY_SECONDS = 2.0
# How often it is looked meanwhile who cannot wait.
_LOOK_SECONDS = 0.25
# A call that would be answered later than this before its expiration is told that the store is away.
_MARGIN_SECONDS = 0.5
# How often a cast is tried whose handling fails unexpectedly.
_MOST_ATTEMPTS = 3

Task = Callable[[], None]


class Engine:
    """The methods of the first section may be called from any thread; all else happens on the engine's own."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        relay: Relay | None,
        auditor: Auditor,
        policy: Callable[[], Policy],
        hosts: Sequence[str],
        owner: str,
        conflict_retries: int,
        clock: Callable[[], int],
        died: Callable[[BaseException], None],
    ) -> None:
        """``relay`` None: notifications are switched off, neither kept nor published."""
        self._store = store
        self._bus = bus
        self._relay = relay
        self._policy = policy
        self._host_names = hosts
        self._conflict_retries = conflict_retries
        self._clock = clock
        self._died = died
        self._arrivals: queue.SimpleQueue[Sequence[Work] | Chore | Task | None] = queue.SimpleQueue()
        self._confirms: deque[Any] = deque()
        self._confirm_queued = False
        self._confirms_wanted = False
        self._ledgers = Ledgers(store)
        self._inbox = Inbox(store)
        self._leases = Leases(store=store, ledgers=self._ledgers, relay=relay, owner=owner)
        self._pruning = Pruning(store=store, ledgers=self._ledgers, leases=self._leases, clock=clock)
        self._audits = Audits(auditor=auditor, bus=bus, submit=self.submit)
        self._decider = Decider(
            ledgers=self._ledgers, inbox=self._inbox, policy=policy, clock=clock, notify=relay is not None
        )
        self._takes_leases = False
        self._waiting = False
        self._flush_delay = _FLUSH_SECONDS
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # --- from any thread ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work. The hosts must be registered in the store."""
        self._thread = threading.Thread(target=self._run, name="tracker-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch in hand and return; what has not been started stays unsettled. Harmless when stopped."""
        self._stopping.set()
        self._arrivals.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def release(self) -> None:
        """After the stop, when the bus has confirmed what it will: write the cursors and let go of the leases, so that a
        successor repeats nothing and need not wait. Without the store it can do both by itself later."""
        with _put_off():
            self._take_confirms()
            self._flush()
            self._leases.release()

    def submit(self, item: Sequence[Work] | Chore) -> None:
        """Decide it after everything that was submitted before."""
        self._arrivals.put(item)

    def confirmed(self, keys: Sequence[Any]) -> None:
        """The bus has these notifications."""
        self._confirms.extend(keys)
        if self._confirms_wanted and not self._confirm_queued:
            self._confirm_queued = True
            self._arrivals.put(self._take_confirms)

    def renew_leases(self) -> None:
        """Take or renew the leases of all hosts, and relay what is held. Nothing is relayed before the first time."""

        def task() -> None:
            self._takes_leases = True
            self._leases.renew(self._host_names, self._clock())

        self._arrivals.put(task)

    def audit(self, host: str) -> None:
        """Expire what is due on a host and read its inventory, if its chores are this worker's."""

        def task() -> None:
            if host in self._leases.held:
                self._audits.periodic(self._ledgers.get(host), release_expired=self._policy().release_expired)

        self._arrivals.put(task)

    def prune(self, *, inbox_seconds: int, outbox_seconds: int) -> None:
        """Drop what is older, of the inbox and of the confirmed part of the outbox, for the hosts whose chores are this
        worker's."""
        step = self._pruning.begin(inbox_seconds=inbox_seconds, outbox_seconds=outbox_seconds)

        def task() -> None:
            # What waits for the store may have been committed long ago, unnoticed.
            if not self._waiting and step():
                self._arrivals.put(task)  # behind what has arrived meanwhile

        self._arrivals.put(task)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                items = self._take()
                if items:
                    self._process(items)
                if self._relay is not None:
                    if self._relay.behind():
                        with _put_off():
                            self._relay.catch_up()
                    self._confirms_wanted = self._relay.waits_for_room()
        except BaseException as error:  # the thread's root: half alive is worse than restarted
            LOG.exception("the engine's thread ends")
            self._died(error)

    def _take(self) -> list[Item]:
        """Everything that has arrived, waiting for the first. Tasks are done on the way."""
        waits = self._relay is not None and self._relay.waits()
        try:
            first = self._arrivals.get(timeout=self._flush_delay if waits else None)
        except queue.Empty:
            self._take_confirms()
            self._flush_delay = min(self._flush_delay * 2, _LONGEST_DELAY_SECONDS)  # the next one, if this one fails
            with _put_off():
                self._flush()
                self._flush_delay = _FLUSH_SECONDS
            return []
        self._take_confirms()
        return self._sort(first) + self._arrived()

    def _arrived(self) -> list[Item]:
        """Without what its tasks submit: a chore in many steps must not keep the others waiting."""
        items: list[Item] = []
        for _ in range(self._arrivals.qsize()):
            items += self._sort(self._arrivals.get_nowait())
        return items

    def _sort(self, arrival: Sequence[Work] | Chore | Task | None) -> list[Item]:
        if arrival is None:
            return []
        if isinstance(arrival, Chore):
            return [arrival]
        if callable(arrival):
            with _put_off():
                arrival()
            return []
        return list(arrival)

    def _process(self, items: list[Item]) -> None:
        """Decide and commit, again and again until it is done or the worker stops."""
        conflicts = 0
        delays = _delays()
        while items and not self._stopping.is_set():
            began = time.monotonic()
            try:
                batch = self._decider.decide(items, again=conflicts > 0)
                self._check(batch, again=conflicts > 0)
                self._commit(batch)
            except Conflict as conflict:
                LOG.info("another worker was first (%s); deciding again", conflict)
                self._ledgers.forget(hosts_of(items))
                conflicts += 1
                if conflicts % self._conflict_retries == 0:
                    self._stopping.wait(next(delays))
            except StoreUnavailable as error:
                self._ledgers.forget(hosts_of(items))
                delay = next(delays)
                LOG.warning("%s; %d messages wait, again in %g s", error, len(items), delay)
                items = self._wait(items, error, delay, time.monotonic() - began)
            except Unstorable as error:
                self._ledgers.forget(hosts_of(items))
                items = self._apart(items, error)
            except Unexpected as unexpected:
                self._ledgers.forget(hosts_of(items))
                LOG.error("unexpected error while deciding", exc_info=unexpected.__cause__)
                if self._gives_up(unexpected):
                    items.remove(unexpected.item)
                else:
                    self._stopping.wait(next(delays))
            else:
                self._conclude(batch)
                return

    def _wait(self, items: list[Item], error: StoreUnavailable, delay: float, attempt: float) -> list[Item]:
        """Let ``delay`` seconds go by, and tell the calls that cannot wait until the end of another attempt, which may take as
        long as the last one has. Returns what waits, with what has arrived meanwhile."""
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0 and not self._stopping.is_set():
            items = self._give_up(items, error, left + attempt)
            self._stopping.wait(min(left, _LOOK_SECONDS))
            self._waiting = True
            items += self._arrived()
            self._waiting = False
        return self._give_up(items, error, attempt)

    def _give_up(self, items: Sequence[Item], error: StoreUnavailable, seconds: float) -> list[Item]:
        """Tell the calls that cannot wait for so long. Returns the others, which wait."""
        waiting: list[Item] = []
        for item in items:
            if isinstance(item, Chore) or item.remaining_seconds > seconds + _MARGIN_SECONDS:
                waiting.append(item)
            elif item.expired:
                dismiss(self._bus, item)
            else:
                conclude(self._bus, item, answer(item, error=error))
        return waiting

    def _apart(self, items: list[Item], error: Unstorable) -> list[Item]:
        """One of these messages cannot be kept: decide each by itself, so that only that one fails. Returns what is left."""
        if len(items) == 1:
            unexpected = Unexpected(items[0])
            unexpected.__cause__ = error
            LOG.error("a message cannot be kept", exc_info=error)
            return [] if self._gives_up(unexpected) else items
        for item in items:
            self._process([item])
        return []

    def _gives_up(self, unexpected: Unexpected) -> bool:
        """A call is told at once. A cast is tried a few times, counted in the store so that a restart does not begin anew, and
        then parked. Returns whether it is done with."""
        item, error = unexpected.item, unexpected.__cause__
        assert isinstance(error, Exception)
        if isinstance(item, Chore):
            if item.failed is not None:
                item.failed(error)
            return True
        if item.reply_to is None and item.unique_id is not None:
            try:
                if self._store.count_attempt(item.unique_id, self._clock()) < _MOST_ATTEMPTS:
                    return False
            except StoreUnavailable as away:
                LOG.warning("%s", away)
                return False
        conclude(self._bus, item, answer(item, error=error))
        return True

    def _check(self, batch: Batch, *, again: bool) -> None:
        """What the commit does not check: that answers without a change come from ledgers as the store has them, and that
        messages are new that it does not record. Raises Conflict, StoreUnavailable."""
        unchecked = [
            name for name in batch.relied if any(ledger.id not in batch.ledgers for ledger in self._ledgers.get(name))
        ]
        self._ledgers.check(unchecked)
        if again:
            return  # looked up before it was decided
        unrecorded = list(batch.parked)
        if not self._commits(batch):
            unrecorded += [message.unique_id for message in batch.answered]
        if unrecorded and self._inbox.look(unrecorded):
            raise Conflict("a message is answered already")

    def _commits(self, batch: Batch) -> bool:
        return bool(batch.ledgers) or self._inbox.full(self._inbox.rows(batch.answered))

    def _commit(self, batch: Batch) -> None:
        """Raises Conflict, StoreUnavailable."""
        rows = self._inbox.rows(batch.answered)
        committing = self._commits(batch)
        if committing:
            cursors = {} if self._relay is None else self._relay.moved()
            faults.reach("before_commit")
            try:
                ledgers = list(batch.ledgers.values())
                self._store.commit(
                    Commit(ledgers=ledgers, notifications=batch.notifications, answered=rows, cursors=cursors)
                )
            except Conflict:
                self._inbox.recheck()
                raise
            faults.reach("after_commit")
            if self._relay is not None:
                self._relay.written(cursors)
        self._inbox.keep(rows, committed=committing)
        for ledger in batch.ledgers.values():
            ledger.committed()

    def _conclude(self, batch: Batch) -> None:
        """It is kept: tell everybody."""
        with self._bus.together():
            for work, recorded in batch.outcomes:
                if work.expired:
                    dismiss(self._bus, work)
                else:
                    conclude(self._bus, work, recorded)
            if self._relay is not None:
                self._relay.offer(batch.notifications)
        if self._takes_leases and not batch.active <= self._leases.held:
            with _put_off():  # whoever is given a host's queue does its chores
                self._leases.renew(batch.active - self._leases.held, batch.now, force=True)
        log_decisions(batch.decisions)
        for chore in batch.chores:
            if chore.done is not None:
                chore.done(self._ledgers.get(chore.host))
        for work in batch.audits:
            self._audits.begin(work)

    # --- tasks -------------------------------------------------------------------------------------------------------

    def _take_confirms(self) -> None:
        self._confirm_queued = False
        while self._confirms:
            key = self._confirms.popleft()
            if self._relay is not None:
                self._relay.confirmed(key)

    def _flush(self) -> None:
        if self._relay is not None and (cursors := self._relay.moved()):
            faults.reach("before_cursor")
            self._store.commit(Commit(cursors=cursors))
            self._relay.written(cursors)


@contextmanager
def _put_off() -> Iterator[None]:
    """A chore that the store is not there for, or that met another writer, is done the next time."""
    try:
        yield
    except (StoreUnavailable, Conflict) as error:
        LOG.warning("a chore is put off: %s", error)


def _delays() -> Iterator[float]:
    delay = _FIRST_DELAY_SECONDS
    while True:
        yield delay
        delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
