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

Messages that changed nothing are recorded too, with the next commit of any other: until then nothing they could see has
changed, and deciding them again would come out the same.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracker_worker.bus.base import Bus
from tracker_worker.domain import commands, views
from tracker_worker.domain.decide import Decision, decide
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.domain.times import SECOND
from tracker_worker.errors import NodeNotFound, StoreUnavailable, TrackerError
from tracker_worker.notifications.render import render
from tracker_worker.service import methods
from tracker_worker.service.audit import Auditor, Report
from tracker_worker.service.decisions import log_decision
from tracker_worker.service.policy import Policy
from tracker_worker.service.relay import Relay
from tracker_worker.service.work import Work, answer, conclude, ignorable
from tracker_worker.store.base import Answered, Commit, Conflict, Notification, Store

LOG = logging.getLogger(__name__)

LEASE_SECONDS = 15
# Replies kept in memory: at least as many as can be in flight, and all that wait for a commit to ride with.
_RECENT = 4096
_MOST_RIDING = 1000
_FLUSH_SECONDS = 0.2
_FIRST_DELAY_SECONDS = 0.05
_LONGEST_DELAY_SECONDS = 2.0
# A call that would be answered later than this before its expiration is told that the store is away.
_MARGIN_SECONDS = 0.5


@dataclass(slots=True, kw_only=True, eq=False)
class Chore:
    """Commands of the worker's own for one host. ``done`` is called on the engine's thread after their commit, with the
    ledgers as they are then; ``failed`` instead when they cannot be decided."""

    host: str
    commands: Sequence[commands.Command]
    done: Callable[[HostLedger], None] | None = None
    failed: Callable[[Exception], None] | None = None


@dataclass(slots=True, eq=False)
class _AuditCall:
    """A call of update_available_resource that waits for its reports."""

    work: Work
    waiting: int
    views: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None


@dataclass(slots=True)
class _Batch:
    """What one attempt decided; nothing of it is true before the commit."""

    now: int
    ledgers: dict[int, NodeLedger] = field(default_factory=dict)
    hosts: set[str] = field(default_factory=set)
    notifications: list[Notification] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    known: dict[str, bytes] = field(default_factory=dict)
    outcomes: list[tuple[Work, bytes]] = field(default_factory=list)
    decisions: list[tuple[commands.Command, Decision, Work | None]] = field(default_factory=list)
    audits: list[Work] = field(default_factory=list)
    chores: list[Chore] = field(default_factory=list)


class _Unexpected(Exception):
    """Deciding this item raised what it must not."""

    def __init__(self, item: Work | Chore) -> None:
        super().__init__()
        self.item = item


class Engine:
    """``submit`` and ``confirmed`` may be called from any thread; all else happens on the engine's own."""

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
        self._auditor = auditor
        self._policy = policy
        self._names = hosts
        self._owner = owner
        self._conflict_retries = conflict_retries
        self._clock = clock
        self._died = died
        self._inbox: queue.SimpleQueue[Sequence[Work] | Chore | Callable[[], None] | None] = queue.SimpleQueue()
        self._confirms: deque[Any] = deque()
        self._confirm_queued = False
        self._hosts: dict[str, HostLedger] = {}
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._riding: list[Answered] = []
        self._held: set[str] = set()
        self._relaying = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # --- from any thread ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work. Hosts must be registered in the store."""
        self._thread = threading.Thread(target=self._run, name="tracker-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch in hand and return; what has not been started stays unsettled. Harmless when stopped."""
        self._stopping.set()
        self._inbox.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def release(self) -> None:
        """Let go of the leases, after the stop; without the store they run out by themselves."""
        with self._housekeeping():
            if self._held:
                self._flush()
                self._store.release_lease(self._owner)
                self._held.clear()

    def submit(self, item: Sequence[Work] | Chore) -> None:
        """Decide it after everything that was submitted before."""
        self._inbox.put(item)

    def confirmed(self, keys: Sequence[Any]) -> None:
        """The bus has these notifications."""
        self._confirms.extend(keys)
        if not self._confirm_queued:
            self._confirm_queued = True
            self._inbox.put(self._take_confirms)

    def renew_leases(self) -> None:
        """Take or renew the leases of all hosts; what is held is relayed from then on."""
        self._inbox.put(self._renew)

    def prune(self, *, inbox_seconds: int, outbox_seconds: int) -> None:
        """Drop what is older, of the inbox and of the confirmed part of the outbox."""
        now = self._clock()
        self._inbox.put(lambda: self._prune(now - inbox_seconds * SECOND, now - outbox_seconds * SECOND))

    def audit(self, host: str) -> None:
        """Expire what is due on a host if this worker does its chores, and read its inventory."""
        self._inbox.put(lambda: self._periodic_audit(host))

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                items = self._take()
                if items:
                    self._process(items)
                if self._relay is not None:
                    self._keep_relaying(self._relay)
        except BaseException as error:  # the thread's root: half alive is worse than restarted
            LOG.exception("the engine's thread ends")
            self._died(error)

    def _take(self) -> list[Work | Chore]:
        """Everything that has arrived, waiting for the first; housekeeping is done on the way."""
        unwritten = self._relay is not None and bool(self._relay.moved())
        items: list[Work | Chore] = []
        try:
            item = self._inbox.get(timeout=_FLUSH_SECONDS if unwritten else None)
            while True:
                self._sort(item, items)
                item = self._inbox.get_nowait()
        except queue.Empty:
            if unwritten and not items:
                self._flush()
        return items

    def _sort(self, item: Sequence[Work] | Chore | Callable[[], None] | None, items: list[Work | Chore]) -> None:
        if isinstance(item, Chore):
            items.append(item)
        elif callable(item):
            with self._housekeeping():
                item()
        elif item is not None:
            items.extend(item)

    def _housekeeping(self) -> _Housekeeping:
        return _Housekeeping()

    def _process(self, items: list[Work | Chore]) -> None:
        """Decide and commit, until it is done or the worker stops."""
        conflicts = 0
        delays = _delays()
        while items and not self._stopping.is_set():
            try:
                batch = self._decide(items)
                self._commit(batch)
            except Conflict as conflict:
                conflicts += 1
                LOG.info("another worker was first (%s); deciding again", conflict)
                self._forget(_named(items))
                if conflicts % self._conflict_retries == 0:
                    self._stopping.wait(next(delays))
            except StoreUnavailable as error:
                self._forget(_named(items))
                delay = next(delays)
                LOG.warning("%s; %d messages wait, again in %g s", error, len(items), delay)
                items = self._give_up(items, error, delay)
                self._stopping.wait(delay)
                items += self._arrived()
            except _Unexpected as unexpected:
                self._forget(_named(items))
                items.remove(unexpected.item)
                self._fail(unexpected.item, unexpected.__cause__)
            else:
                self._conclude(batch)
                return

    def _arrived(self) -> list[Work | Chore]:
        items: list[Work | Chore] = []
        try:
            while True:
                self._sort(self._inbox.get_nowait(), items)
        except queue.Empty:
            return items

    def _give_up(self, items: list[Work | Chore], error: StoreUnavailable, delay: float) -> list[Work | Chore]:
        """Tell the calls that would not be answered in time; the others wait."""
        waiting = []
        for item in items:
            if isinstance(item, Work) and item.remaining_seconds < delay + _MARGIN_SECONDS:
                if item.expired:
                    self._settle(item)
                else:
                    conclude(self._bus, item, answer(item, error=error))
            else:
                waiting.append(item)
        return waiting

    def _fail(self, item: Work | Chore, error: BaseException | None) -> None:
        assert isinstance(error, Exception)
        LOG.error("unexpected error while deciding", exc_info=error)
        if isinstance(item, Work):
            conclude(self._bus, item, answer(item, error=error))
        elif item.failed is not None:
            item.failed(error)

    def _forget(self, names: Iterable[str]) -> None:
        """Throw these hosts' ledgers away; they are read again when they are wanted."""
        for name in names:
            self._hosts.pop(name, None)

    # --- deciding ----------------------------------------------------------------------------------------------------

    def _decide(self, items: Sequence[Work | Chore]) -> _Batch:
        """Raises StoreUnavailable, Conflict, _Unexpected."""
        batch = _Batch(now=self._clock())
        works = [item for item in items if isinstance(item, Work)]
        self._look(batch, works, [item for item in items if isinstance(item, Chore)])
        for item in items:
            try:
                if isinstance(item, Work):
                    self._decide_work(batch, item)
                else:
                    self._decide_chore(batch, item)
            except (StoreUnavailable, Conflict):
                raise
            except Exception as error:
                raise _Unexpected(item) from error
        return batch

    def _look(self, batch: _Batch, works: Sequence[Work], chores: Sequence[Chore]) -> None:
        """Read what must be known first: which messages are answered already, and that the ledgers in memory are those of
        the store. A no-op is as much a decision as a claim, and must not be one on an old view."""
        unseen = [w.unique_id for w in works if w.unique_id is not None and w.unique_id not in self._recent]
        if unseen:
            batch.known = self._store.answered(unseen)
        names = _named([*works, *chores])
        loaded = [self._hosts[name] for name in names if name in self._hosts]
        if loaded:
            stored = self._store.generations([host.id for host in loaded])
            for host in loaded:
                if any(stored.pop(ledger.id, None) != ledger.stored_generation for ledger in list(host)):
                    del self._hosts[host.name]
            if stored:  # nodes that another worker has added
                self._forget(names)
        for name in names:
            self._load(name)
        for chore in chores:
            self._create_nodes(chore)

    def _create_nodes(self, chore: Chore) -> None:
        """A report of a node that is new: it gets its row before anything is decided on it."""
        host = self._load(chore.host)
        reported = [c.node for c in chore.commands if isinstance(c, commands.ReportInventory)]
        new = [node for node in reported if node not in host.nodes]
        for node in new:
            self._store.create_node(host.id, node)
        if new:
            self._forget([chore.host])
            self._load(chore.host)

    def _load(self, name: str) -> HostLedger:
        host = self._hosts.get(name)
        if host is None:
            host = self._store.load_host(name)
            assert host is not None, f"host {name} has no service record"
            self._hosts[name] = host
        return host

    def _decide_work(self, batch: _Batch, work: Work) -> None:
        recorded = None
        if work.unique_id is not None:
            recorded = self._recent.get(work.unique_id, batch.known.get(work.unique_id))
        if work.expired:
            batch.outcomes.append((work, b""))
        elif recorded is not None:
            batch.outcomes.append((work, recorded))
        elif work.call is None:
            assert work.refusal is not None
            batch.outcomes.append((work, b"" if ignorable(work) else answer(work, error=work.refusal)))
        elif isinstance(work.call.asked, methods.Audit):
            self._begin_audit(batch, work, work.call)
        elif isinstance(work.call.asked, methods.Query | methods.Ping):
            batch.outcomes.append((work, self._read(work, work.call)))
        else:
            self._decide_command(batch, work, work.call.hosts[0], work.call.asked)

    def _decide_command(self, batch: _Batch, work: Work, host: str, command: commands.Command) -> None:
        decision = self._apply(batch, self._load(host), command, work)
        told = answer(work, decision.reply, decision.error)
        batch.outcomes.append((work, told))
        if work.unique_id is not None:
            batch.known[work.unique_id] = told
            batch.answered.append(Answered(unique_id=work.unique_id, reply=told, received_at=batch.now))

    def _apply(self, batch: _Batch, host: HostLedger, command: commands.Command, work: Work | None) -> Decision:
        decision = decide(host, command, batch.now)
        ledger = decision.node
        for event in decision.events:
            assert ledger is not None
            ledger.apply(event)
            batch.ledgers[ledger.id] = ledger
            batch.hosts.add(host.name)
            if self._relay is not None:
                batch.notifications.append(render(event, ledger))
        batch.decisions.append((command, decision, work))
        return decision

    def _decide_chore(self, batch: _Batch, chore: Chore) -> None:
        host = self._load(chore.host)
        for command in chore.commands:
            error = self._apply(batch, host, command, None).error
            if error is not None:
                raise error
        batch.chores.append(chore)

    def _read(self, work: Work, call: methods.Call) -> bytes:
        try:
            return answer(work, self._query(call))
        except TrackerError as refusal:
            return answer(work, error=refusal)

    def _query(self, call: methods.Call) -> Any:
        hosts = [self._load(name) for name in call.hosts]
        match call.asked:
            case methods.GetNode(node=node):
                return views.node_view(hosts[0].node_or_only(node, "node"))
            case methods.ListNodes():
                return [views.node_view(ledger) for host in hosts for ledger in host]
            case methods.ListClaims(node=node):
                wanted = list(hosts[0]) if node is None else [hosts[0].node(node)]
                return [claim for ledger in wanted for claim in views.claim_views(ledger)]
            case methods.GetUsage(project_id=project_id):
                return views.usage_view((ledger for host in hosts for ledger in host), project_id)
            case _:
                assert isinstance(call.asked, methods.Ping)
                return "pong"

    # --- after the decision ------------------------------------------------------------------------------------------

    def _commit(self, batch: _Batch) -> None:
        """Raises Conflict, StoreUnavailable."""
        riding = [*self._riding, *batch.answered]
        if batch.ledgers or len(riding) > _MOST_RIDING:
            cursors = {} if self._relay is None else self._relay.moved()
            try:
                self._store.commit(
                    Commit(
                        ledgers=list(batch.ledgers.values()),
                        notifications=batch.notifications,
                        answered=riding,
                        cursors=cursors,
                    )
                )
            except Conflict:
                recorded = self._store.answered([message.unique_id for message in self._riding])
                self._riding = [message for message in self._riding if message.unique_id not in recorded]
                raise
            self._riding = []
            if self._relay is not None:
                self._relay.written(cursors)
        else:
            self._riding = riding
        for ledger in batch.ledgers.values():
            ledger.committed()
        for message in batch.answered:
            self._recent[message.unique_id] = message.reply
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def _conclude(self, batch: _Batch) -> None:
        """It is kept: tell everybody."""
        settled = []
        for work, recorded in batch.outcomes:
            if work.expired:
                self._settle(work)
            elif not conclude(self._bus, work, recorded):
                settled.append(work.delivery)
        if settled:
            self._bus.settle(settled)
        for command, decision, asker in batch.decisions:
            log_decision(command, decision, asker)
        for chore in batch.chores:
            if chore.done is not None:
                chore.done(self._hosts[chore.host])
        for work in batch.audits:
            self._ask_drivers(work)
        if self._relaying and not batch.hosts <= self._held:
            with self._housekeeping():
                self._renew(taking=batch.hosts - self._held)
        if self._relay is not None:
            self._relay.offer(batch.notifications)

    def _settle(self, work: Work) -> None:
        if work.monitor is not None:
            work.monitor.cancel()
        self._bus.settle([work.delivery])

    # --- audits ------------------------------------------------------------------------------------------------------

    def _begin_audit(self, batch: _Batch, work: Work, call: methods.Call) -> None:
        """Expire what is due now; the inventories come later. A cast is done with, a call waits for them."""
        assert isinstance(call.asked, methods.Audit)
        node = call.asked.node
        try:
            ledgers = [
                (host, ledger)
                for host in map(self._load, call.hosts)
                for ledger in (list(host) if node is None else [host.node(node)])
            ]
        except NodeNotFound as refusal:
            batch.outcomes.append((work, answer(work, error=refusal)))
            return
        for host, ledger in ledgers:
            expire = commands.ExpireClaims(node=ledger.name, release=self._policy().release_expired)
            self._apply(batch, host, expire, work)
        batch.audits.append(work)
        if work.reply_to is None:
            batch.outcomes.append((work, b""))

    def _ask_drivers(self, work: Work) -> None:
        assert work.call is not None
        assert isinstance(work.call.asked, methods.Audit)
        waiting = _AuditCall(work, len(work.call.hosts)) if work.reply_to is not None else None
        for host in work.call.hosts:
            self._auditor.audit(host, work.call.asked.node, lambda report: self._report(report, waiting))

    def _periodic_audit(self, host: str) -> None:
        if host in self._held:
            release = self._policy().release_expired
            expire = [commands.ExpireClaims(node=ledger.name, release=release) for ledger in self._load(host)]
            self.submit(Chore(host=host, commands=expire))
            self._auditor.audit(host, None, lambda report: self._report(report, None))

    def _report(self, report: Report, waiting: _AuditCall | None) -> None:
        """On one of the auditor's threads."""

        def done(host: HostLedger) -> None:
            if waiting is not None:
                self._report_to_caller(waiting, report, host)

        self.submit(Chore(host=report.host, commands=report.found, done=done))

    def _report_to_caller(self, waiting: _AuditCall, report: Report, host: HostLedger) -> None:
        assert waiting.work.call is not None
        assert isinstance(waiting.work.call.asked, methods.Audit)
        node = waiting.work.call.asked.node
        wanted = list(host) if node is None else [host.node(node)]
        waiting.views += [views.node_view(ledger) for ledger in wanted]
        waiting.error = waiting.error or next(iter(report.errors), None)
        waiting.waiting -= 1
        if not waiting.waiting:
            work = waiting.work
            if work.expired:
                self._settle(work)
            else:
                conclude(self._bus, work, answer(work, waiting.views, waiting.error))

    # --- chores ------------------------------------------------------------------------------------------------------

    def _take_confirms(self) -> None:
        self._confirm_queued = False
        while self._confirms:
            key = self._confirms.popleft()
            if self._relay is not None:
                self._relay.confirmed(key)

    def _keep_relaying(self, relay: Relay) -> None:
        if relay.behind():
            with self._housekeeping():
                relay.catch_up()

    def _flush(self) -> None:
        self._take_confirms()
        if self._relay is None:
            return
        with self._housekeeping():
            cursors = self._relay.moved()
            self._store.commit(Commit(cursors=cursors))
            self._relay.written(cursors)

    def _renew(self, taking: set[str] | None = None) -> None:
        """The lease says who does a host's chores and relays it. Whoever commits for a host takes it (``taking``)."""
        self._relaying = True
        hosts = {name: self._load(name) for name in (self._names if taking is None else taking)}
        now = self._clock()
        ids = self._store.take_lease(
            [host.id for host in hosts.values()],
            self._owner,
            now=now,
            until=now + LEASE_SECONDS * SECOND,
            force=taking is not None,
        )
        for name, host in hosts.items():
            if host.id in ids and name not in self._held:
                LOG.info("this worker does the chores of host %s", name)
                self._held.add(name)
                if self._relay is not None:
                    self._relay.take(host)
            elif host.id not in ids and name in self._held:
                LOG.info("another worker does the chores of host %s", name)
                self._held.discard(name)
                if self._relay is not None:
                    self._relay.drop(host)

    def _prune(self, answered_before: int, occurred_before: int) -> None:
        limit = 1000
        dropped = self._store.prune(answered_before=answered_before, occurred_before=occurred_before, limit=limit)
        if dropped >= limit:
            self._inbox.put(lambda: self._prune(answered_before, occurred_before))


class _Housekeeping:
    """A chore that the store is not there for is done the next time."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, StoreUnavailable):
            LOG.warning("a chore is put off: %s", error)
            return True
        return False


def _named(items: Iterable[Work | Chore]) -> set[str]:
    """The hosts that these items are about."""
    names: set[str] = set()
    for item in items:
        if isinstance(item, Chore):
            names.add(item.host)
        elif item.call is not None:
            names.update(item.call.hosts)
    return names


def _delays() -> Iterator[float]:
    delay = _FIRST_DELAY_SECONDS
    while True:
        yield delay
        delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
