# SPDX-License-Identifier: Apache-2.0
"""The engine with its parts, on a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

from tracker_worker import threads
from tracker_worker.bus.base import Bus, Refusal
from tracker_worker.counters import Counters
from tracker_worker.domain.calendar import HOURS, Calendar
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import StoreUnavailable
from tracker_worker.history import Entry
from tracker_worker.ids import NewIds
from tracker_worker.new_history import begin_history
from tracker_worker.notifications.asked import asked_by
from tracker_worker.notifications.dialects.dialect import Dialect
from tracker_worker.notifications.render import PLAIN, Style
from tracker_worker.service.chores.audits import Audits
from tracker_worker.service.chores.host_chores import HostChores
from tracker_worker.service.chores.inventories import Inventories
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.clock import Clock
from tracker_worker.service.loop.arrivals import Arrivals
from tracker_worker.service.loop.attempt import Attempts
from tracker_worker.service.loop.backlog import Backlog
from tracker_worker.service.loop.batch import Decider
from tracker_worker.service.loop.engine import Engine
from tracker_worker.service.loop.inbox import Inbox
from tracker_worker.service.loop.inline import Inline
from tracker_worker.service.loop.outage import Outage
from tracker_worker.service.loop.outcomes import Outcomes
from tracker_worker.service.loop.recovery import Recovery
from tracker_worker.service.loop.refused import Refused
from tracker_worker.service.loop.reporting import Reporting
from tracker_worker.service.loop.snapshot import Snapshots
from tracker_worker.service.loop.stored_answers import StoredAnswers
from tracker_worker.store.base import Conflict, Store, StoreReplaced
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.unit_of_work import UnitOfWork
from tracker_worker.wire.reply import MAX_ANSWER_BYTES

LOG = logging.getLogger(__name__)


class EngineThread:
    """``start``, ``stop`` and ``release`` must be called from one thread, and ``step`` only from the engine's thread. Any
    thread may call the other methods, ``submit`` (see ``Arrivals``) and ``receive`` (see ``Inline``)."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        inventories: Inventories,
        policy: Callable[[], Policy],
        hosts: Sequence[str],
        owner: str,
        notify: bool,
        topics: Mapping[str, Dialect],
        style: Style = PLAIN,
        calendar: Calendar = HOURS,
        counters: Counters,
        clock: Clock,
        died: Callable[[BaseException], None],
        monotonic: Callable[[], float] = threads.monotonic,
        runtime: threads.Runtime = threads.SYSTEM,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        register: Callable[[], object] = lambda: None,
        began: Callable[[str], None] = lambda ledger_id: None,
        reporting: Reporting | None = None,
        turned: Callable[[float], float] | None = None,
    ) -> None:
        """``owner`` names this worker in leases. ``notify`` False: notifications are neither kept nor published. They are
        published to ``topics``, on each in its dialect; ``style`` is what they have in common, ``calendar`` says which periods
        they are for. ``register`` makes the service records of the hosts again, and ``began`` is told the ledger_id of each
        history in which the worker goes on; both are called on the engine's thread. So is ``turned``, with the time of a pass,
        which returns from when on a pass calls it again (both in seconds on the monotonic clock). ``reporting`` None:
        nobody hears what becomes of requests."""
        reporting = reporting or Reporting()
        self._store = store
        self._notify = notify
        self._turned, self._turned_at = turned, -inf
        self._monotonic = monotonic
        self._thread = runtime.stepped("tracker-engine", self, died, monotonic=monotonic)
        self._arrivals = Arrivals(wake=self._thread.wake)
        self.submit = self._arrivals.submit
        ledgers = Ledgers(store)
        inbox = Inbox(store)
        made: dict[str, Any] = {
            "notify": notify,
            "new_id": NewIds(runtime.random_bytes),
            "style": style,
            "asked": asked_by(owner),
        }
        self._ledgers = ledgers
        self._began = began
        self._relays = False  # ``renew_leases`` begins to relay, when the bus has been started
        self._relay = Relay(
            store,
            bus,
            topics=topics if notify else {},
            hole=lambda host, node, first, last: self._recovery.hole(host, node, first, last),
            confirm_history=ledgers.confirm,
            ledger_id=lambda: ledgers.ledger_id,
            monotonic=monotonic,
            wake=self._thread.wake,
        )
        self._recovery = Recovery(
            store=store,
            ledgers=ledgers,
            inbox=inbox,
            relay=self._relay,
            begin=partial(begin_history, store, **made),
            counters=counters,
            clock=clock,
            register=register,
            began=self._history_began,
        )
        self._outage = Outage(counters, ledgers.doubt, place=reporting.store_place, monotonic=monotonic)
        self._refused = Refused(store=store, bus=bus, relay=self._relay, counters=counters, clock=clock)
        chores = HostChores(
            store=store,
            bus=bus,
            ledgers=ledgers,
            relay=self._relay,
            hosts=hosts,
            owner=owner,
            policy=policy,
            calendar=calendar,
            gained=self.audit,
            submit=self.submit,
            soon=self._arrivals.run_once,
            clock=clock,
            monotonic=monotonic,
        )
        self._chores = chores
        self._leases = chores.leases
        self._outcomes = Outcomes(
            store=store,
            reporting=reporting,
            notify=notify,
            new_id=made["new_id"],
            worker=owner,
            clock=clock,
            monotonic=monotonic,
        )
        self._audits = Audits(
            inventories=inventories,
            bus=bus,
            ledgers=ledgers,
            leases=self._leases,
            policy=policy,
            submit=self.submit,
            listed=self.look_elsewhere,
            monotonic=monotonic,
            count=counters.add,
            tally=reporting.tally,
            max_answer_bytes=max_answer_bytes,
        )
        self._backlog = Backlog()
        self._engine = Engine(
            arrivals=self._arrivals,
            backlog=self._backlog,
            store=store,
            bus=bus,
            ledgers=ledgers,
            attempts=Attempts(
                store=store,
                ledgers=ledgers,
                inbox=inbox,
                decider=Decider(
                    stored=StoredAnswers(
                        store=store,
                        ledgers=ledgers,
                        calendar=calendar,
                        style=style,
                        max_answer_bytes=max_answer_bytes,
                    ),
                    ledgers=ledgers,
                    policy=policy,
                    clock=clock,
                    monotonic=monotonic,
                    may_expire=chores.expiry.may,
                    new_unit=partial(UnitOfWork, store, ledgers, **made),
                    max_answer_bytes=max_answer_bytes,
                ),
                counters=counters,
            ),
            recovery=self._recovery,
            outage=self._outage,
            relay=self._relay,
            leases=self._leases,
            audits=self._audits,
            outcomes=self._outcomes,
            counters=counters,
            clock=clock,
            monotonic=monotonic,
        )
        self.receive = Inline(
            self._engine, self._arrivals, self._thread, hold_seconds=bus.hold_seconds, monotonic=monotonic
        ).receive
        self.snapshots = Snapshots(
            ledgers=ledgers,
            held=lambda: self._leases.held,
            waiting=self._engine.undecided,
            run_once=self._arrivals.run_once,
            monotonic=monotonic,
            projects=reporting.projects,
            runtime=runtime,
        )

    def start(self) -> None:
        """Begin to work. The hosts must be registered in the store."""
        self._thread.start()

    @property
    def thread(self) -> threads.StepThread:
        """The engine's thread, for the watchdog."""
        return self._thread

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Finish the attempt in hand, for at most so long (None: however long it takes); what is not decided stays unsettled.
        Calls that wait for an audit get an error, which the bus still sends. Returns whether the thread has ended. Harmless
        when stopped."""
        ended = self._thread.stop(timeout_seconds)
        if ended:
            self._audits.stop()
        return ended

    def release(self) -> None:
        """Write the cursors and give up the leases, so that a successor publishes nothing twice and need not wait. Call it
        after ``stop``, when no further confirms will arrive. If the store is unavailable, the successor publishes some
        notifications again and waits until the leases expire."""
        try:
            self._ledgers.confirm()
            self._relay.flush()
            self._leases.release()
            self._chores.orphans.release()
        except (StoreUnavailable, StoreReplaced, Conflict) as error:
            LOG.warning("the cursors or the leases are left to the successor: %s", error)
        self._outcomes.stop()

    def _history_began(self, ledger_id: str) -> None:
        if self._relays:
            self._arrivals.run(self._leases.renew)  # the relay takes its hosts again
        self._began(ledger_id)

    def step(self, now: float) -> float | None:
        """See ``Engine.step``. The engine's thread calls this method; a test that does not call ``start`` calls it itself."""
        if self._turned is None:
            return self._engine.step(now)
        if now >= self._turned_at:
            self._turned_at = self._turned(now)
        return threads.soonest(self._engine.step(now), max(0.0, self._turned_at - self._monotonic()))

    def confirmed(self, keys: Sequence[Any]) -> None:
        """The bus has these notifications."""
        self._relay.confirmed(keys)

    def emptied(self, host: str) -> None:
        """No message was ready in the host's queue, and everything that was delivered before has been submitted."""
        self._arrivals.run(lambda: self._leases.emptied(host))

    def lost(self) -> None:
        """The consuming connection is gone: what came over it and is not decided comes again."""
        self._arrivals.run(self._engine.drop_lost)

    def refused(self, refusals: Sequence[Refusal]) -> None:
        """The broker does not take these messages: the store keeps the dead letters, and the nodes of notifications wait. While
        the store is unavailable, they are kept here until a renewal of the leases."""
        self._refused.add(refusals)
        self._arrivals.run(self._refused.keep)

    def queues(self) -> dict[str, tuple[int, int]]:
        """What waits here: name of the queue -> number of messages and of the bytes of their bodies."""
        bodies = {"undecided": [request.delivery.body for request in self._engine.undecided()]}
        bodies["refused_dead_letters"] = self._refused.bodies()
        return {name: (len(each), sum(map(len, each))) for name, each in bodies.items()}

    @property
    def ledgers(self) -> Ledgers:
        """The ledgers in memory: from other threads to be looked at only (``ledger_id``, ``in_memory``)."""
        return self._ledgers

    def acquire_leases(self) -> frozenset[str]:
        """Take the leases that are free, before anything is received. Returns the hosts whose chores this worker does. Call it
        before ``start``. Raises StoreUnavailable."""
        self._leases.acquire()
        return self._leases.held

    def allow(self, hosts: frozenset[str]) -> None:
        """Do the chores of these hosts only, from now on. Without a call, those of all hosts are done."""
        self._leases.allowed = hosts
        if self._leases.begun:
            self.renew_leases()

    @property
    def held(self) -> frozenset[str]:
        """The hosts whose chores this worker does."""
        return self._leases.held

    @property
    def active(self) -> frozenset[str]:
        """The hosts whose messages the broker delivers to this worker, as far as it knows."""
        return self._leases.active

    def announce(self) -> None:
        """From now on, log each host that becomes active or standby."""
        self._arrivals.run(self._leases.announce)

    def renew_leases(self) -> None:
        """Take or renew the leases of all hosts, and relay the hosts that are held. No notification is published before
        the first call of this method."""
        self._arrivals.run_once(self._renew)

    def _renew(self) -> None:
        """One task, so that a store that is away is waited for once."""
        self._relays = True
        self._recovery.verify()
        self._chores.renew()
        self._refused.keep()
        self._outage.written()

    def probe_store(self) -> None:
        """Find out by one small read whether the store answers: ``store_error`` says so."""
        self._arrivals.run_once(self._read_store)

    def _read_store(self) -> None:
        # The renewals find out when a store that is away is back: each access may wait for seconds, and so do the requests.
        if self._outage.unproven is None:
            self._store.histories()

    @property
    def store_error(self) -> StoreUnavailable | None:
        """Why the store could not be used, if nothing was written since. Any thread."""
        return self._outage.unproven

    @property
    def locked(self) -> Mapping[str, float]:
        """Host -> since when (monotonic seconds) another session has locked its rows, while something waits for them. Any
        thread."""
        return self._backlog.locked()

    @property
    def ledger_id(self) -> str | None:
        """The history of the ledgers in memory; None: nothing has been read. Any thread."""
        return self._ledgers.ledger_id

    def keep_outcomes(self) -> None:
        """Write the refusals that are to be kept. Called once a second."""
        self._arrivals.run_once(self._keep_outcomes)

    def _keep_outcomes(self) -> None:
        # One access to a store that is away is enough for a pass.
        if not self._outcomes.keep(available=self._outage.unproven is None):
            self._outage.in_this_pass = True

    def recent(self) -> Sequence[Entry]:
        """The last decisions, oldest first."""
        return self._outcomes.recent()

    def audit(self, host: str) -> None:
        """Expire claims of a host that are due and read its inventories, if this worker holds the host's lease."""
        self._arrivals.run(lambda: self._audits.periodic(host))

    def look_for_orphans(self) -> None:
        """Do the chores of the hosts of the database that nobody serves. Called every ``LOOK_SECONDS`` of ``orphans``."""
        self._arrivals.run_once(self._chores.orphans.look)

    def look_elsewhere(self) -> None:
        """Find the nodes of the held hosts that are charged on other hosts, which no longer list them. Call it on the engine's
        thread; several calls before the next step are one."""
        self._arrivals.run_once(self._chores.elsewhere.look)

    def close_periods(self) -> None:
        """Close the periods that are over, of the hosts whose chores this worker does; nothing where notifications are switched
        off. Called every ``LOOK_SECONDS`` of ``periods``."""
        if self._notify:
            self._arrivals.run_once(self._chores.periods.look)

    def prune(self, *, inbox_seconds: int, outbox_seconds: int, keeps_inbox: bool = False) -> None:
        """Drop older rows of the inbox and of the confirmed part of the outbox, and deletions that were remembered for long
        enough, for the hosts whose leases this worker holds. ``keeps_inbox``: nothing of the inbox."""
        step = self._chores.pruning.begin(
            inbox_seconds=inbox_seconds, outbox_seconds=outbox_seconds, keeps_inbox=keeps_inbox
        )

        def task() -> None:
            # A waiting batch may be committed already without the worker's knowledge. Its inbox rows must not be pruned.
            if not self._backlog.in_doubt and step():
                self._arrivals.run(task)  # after the requests that have arrived in the meantime

        self._arrivals.run(task)
