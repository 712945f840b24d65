# SPDX-License-Identifier: Apache-2.0
"""The worker: builds its parts, starts them in order, and stops them in order. The only module of the service that chooses
drivers.

Start: store and its schema -> service records -> the hosts' markers on the broker, and what of the hosts this worker's ledger
may serve -> free leases -> engine -> one inventory of every host, committed for the hosts whose lease this worker has, and for
others where the ledger has none -> bus. Drivers that do not answer in time are not waited for.

Stop: receive nothing new -> finish and commit the batch in hand -> publish replies and notifications until they are
confirmed, and acknowledge -> close the connections without a basic.cancel, so that messages which were not started return
to their queues in order -> store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from operator import attrgetter

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.bus.amqp.bus import AMQPBus
from tracker_worker.bus.base import Bus, Listener
from tracker_worker.bus.settings import read_settings
from tracker_worker.conf.names import topic_options
from tracker_worker.conf.policy import read_policy
from tracker_worker.counters import Counters
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import MAX_TIMEOUT_SECONDS, SECOND
from tracker_worker.errors import ConfigurationError, TrackerError
from tracker_worker.inventory.base import InventoryDriver, load_driver
from tracker_worker.notifications.dialects.table import read_topics
from tracker_worker.notifications.style import read_calendar, read_style
from tracker_worker.service.chores import periods
from tracker_worker.service.chores.inventories import Inventories
from tracker_worker.service.chores.orphans import LOOK_SECONDS
from tracker_worker.service.chores.ownership import Ownership
from tracker_worker.service.chores.timers import Timers
from tracker_worker.service.clock import Clock
from tracker_worker.service.first_audit import FirstAudit, StartCancelled
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.options import read_hosts, read_reply_queues
from tracker_worker.service.report import Section, sections
from tracker_worker.service.requests.reader import RequestReader
from tracker_worker.service.watchdog import Watchdog
from tracker_worker.store.base import LEASE_SECONDS, AnotherHistory, Store
from tracker_worker.store.sql.location import prepared_url
from tracker_worker.store.sql.store import SQLStore

LOG = logging.getLogger(__name__)

# A start waits so long for the drivers: a claim on a node that the ledger does not know yet is better refused than late.
_FIRST_AUDIT_SECONDS = 5.0
# Drivers that hang are looked for this often.
_HANGING_SECONDS = 5
# A start goes on without the markers of its hosts after this time. No host is served before its marker was seen.
_FIRST_LOOK_SECONDS = 60
# Of the time for a stop, what is kept for publishing and acknowledging while the engine's batch does not end.
_PUBLISHING_SHARE = 0.2
# It may wait for a broker that does not answer.
_OWNERSHIP_STOP_SECONDS = 1.0
_PRUNE_SECONDS = 30
_PROBE_SECONDS = 2


class Worker:
    """``start`` is synchronous and may fail with ConfigurationError. ``stop`` returns when everything has stopped or its time
    is over, and is harmless without a start and a second time; a worker is started once. ``died`` is called, on any thread,
    when a part has failed beyond repair."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        bus: Bus | None = None,
        store: Store | None = None,
        drivers: Callable[[str], InventoryDriver] | None = None,
        clock: Callable[[], int] = threads.now_microseconds,
        monotonic: Callable[[], float] | None = None,
        runtime: threads.Runtime = threads.SYSTEM,
        died: Callable[[BaseException], None] | None = None,
        stalled: Callable[[str], None] | None = None,
    ) -> None:
        """``bus``, ``store`` and ``drivers``, which gives the inventory driver of a host, None: those that the configuration
        names. ``clock`` is the time of day of this machine in microseconds, which is the time of a store on SQLite that the
        configuration names; ``monotonic`` gives seconds, and carries the time of the store on; None: the clock of ``runtime``,
        from which the worker also has its threads. ``stalled`` is called with a sentence when the engine hangs (see
        ``watchdog``), and should end the process without waiting for the worker; None: ``died`` is called."""
        self._conf = conf
        self._runtime = runtime
        self._monotonic = runtime.monotonic
        self._hosts = read_hosts(conf)
        self._died = died or (lambda error: None)
        self._policy = read_policy(conf)
        self._reply_queues = read_reply_queues(conf)
        self._bus = bus or AMQPBus(read_settings(conf))
        made = drivers or partial(_driver, conf)
        self._drivers = {host: made(host) for host in self._hosts}
        self._store = store or SQLStore(prepared_url(conf), now=clock)
        self._clock = Clock(self._store.time, monotonic=monotonic or runtime.monotonic)
        self._connected_at: float | None = None
        self._owner = f"{runtime.process()}:{runtime.random_bytes(4).hex()}"
        self.counters = Counters()
        self._stop_seconds = float(conf.tracker.stop_seconds)
        self._starting = runtime.lock()
        self._stopping = False
        self._first_audit: FirstAudit | None = None
        self._timers = Timers(self._died, monotonic=runtime.monotonic, runtime=runtime)
        self._inventories = Inventories(
            self._drivers, self._policy.reserved, monotonic=runtime.monotonic, runtime=runtime
        )
        # The policy of the moment: ``reload`` replaces it.
        self._current_policy: Callable[[], Policy] = partial(attrgetter("_policy"), self)
        self._engine = EngineThread(
            store=self._store,
            bus=self._bus,
            inventories=self._inventories,
            policy=self._current_policy,
            hosts=self._hosts,
            owner=self._owner,
            notify=conf.notifications.driver == "messaging",
            topics=read_topics(conf),
            counters=self.counters,
            clock=self._clock,
            died=self._died,
            max_answer_bytes=conf.bus.max_answer_bytes,
            style=read_style(conf),
            calendar=read_calendar(conf),
            register=self._register,
            monotonic=runtime.monotonic,
            runtime=runtime,
        )
        self._reader = RequestReader(
            bus=self._bus,
            served=self._hosts,
            owned=lambda: self._ownership.served(),
            policy=self._policy_of_requests,
            max_body_bytes=conf.bus.max_body_bytes,
            every=self._timers.every,
            submit=self._engine.submit,
            reply_queues=self._reply_queues,
        )
        self._ownership = Ownership(
            store=self._store,
            bus=self._bus,
            hosts=self._hosts,
            worker=self._owner,
            received=self._reader.received,
            changed=self._engine.allow,
            emptied=self._engine.emptied,
            clock=self._clock,
            died=self._died,
            monotonic=runtime.monotonic,
            runtime=runtime,
        )
        self._watchdog = Watchdog(
            self._engine.thread,
            stall_seconds=conf.tracker.stall_seconds,
            stalled=stalled or (lambda sentence: self._died(RuntimeError(sentence))),
            died=self._died,
            monotonic=runtime.monotonic,
            runtime=runtime,
        )

    def _policy_of_requests(self) -> Policy:
        """The policy of the moment. After a step of the clock forward, of which a worker that has just started does not know,
        deletions look older than they are: for as long as they are remembered, all count."""
        policy = self._policy
        if self._clock.unsure_within(policy.deletion_memory / SECOND):
            memory = MAX_TIMEOUT_SECONDS * SECOND
            return replace(policy, deletion_memory=memory, move_memory=memory)
        return policy

    def start(self) -> None:
        """Raises ConfigurationError, StartCancelled; the parts that were started by then are stopped again."""
        with self._starting:
            try:
                self._start()
            except (TrackerError, AnotherHistory) as error:
                self._stop_parts(self._stop_seconds)
                raise ConfigurationError(f"the worker cannot start: {error}") from error
            except BaseException:
                self._stop_parts(self._stop_seconds)
                raise

    def _start(self) -> None:
        self._go_on()
        if self._conf.notifications.driver == "messaging" and not topic_options(self._conf):
            LOG.info("[notifications] topics is empty: notifications are kept in the database and not published")
        self._store.start()
        for host in self._hosts:
            self._go_on()
            self._register_host(host)
        self._engine.allow(frozenset())
        self._ownership.begin(_FIRST_LOOK_SECONDS)
        self._go_on()
        self._register()  # the wait may have been long: meanwhile an operator may have forgotten a host
        # A standby of another worker writes an inventory only where the ledger has none.
        own = self._engine.acquire_leases()
        self._engine.start()
        self._watchdog.start()
        self._inventories.start()
        self._first_audit = FirstAudit(self._engine, self._inventories, self._hosts, own, runtime=self._runtime)
        self._go_on()
        self._first_audit.run(_FIRST_AUDIT_SECONDS)
        self._go_on()
        self._bus.start(
            self._hosts,
            Listener(
                received=self._ownership.received,
                confirmed=self._engine.confirmed,
                opened=self._ownership.opened,
                lost=self._lost,
                refused=self._engine.refused,
                emptied=self._ownership.emptied,
                died=self._died,
            ),
        )
        self.counters.watch(self._bus.figures)
        self._engine.renew_leases()
        self._engine.look_for_orphans()
        self._timers.every(LEASE_SECONDS / 3, self._engine.renew_leases)
        self._timers.every(LOOK_SECONDS, self._engine.look_for_orphans)
        self._timers.every(self._conf.tracker.audit_interval_seconds, self._audit_all)
        self._timers.every(_HANGING_SECONDS, self._inventories.note_hanging)
        self._timers.every(periods.LOOK_SECONDS, self._engine.close_periods)
        self._timers.every(_PRUNE_SECONDS, self._prune)
        self._timers.every(_PROBE_SECONDS, self.probe)
        self._timers.start()

    def _register(self) -> None:
        """Make or refresh the service record of each host. Raises StoreUnavailable."""
        for host in self._hosts:
            self._register_host(host)

    def _register_host(self, host: str) -> None:
        self._store.register_host(
            host, topic=self._conf.tracker.topic, version=version("tracker-worker"), now=self._clock()
        )

    def _lost(self) -> None:
        self._ownership.lost()
        self._engine.lost()

    def _go_on(self) -> None:
        """Raises StartCancelled: ``stop`` was called in the meantime."""
        if self._stopping:
            raise StartCancelled

    def _audit_all(self) -> None:
        for host in self._hosts:
            self._engine.audit(host)

    def probe(self) -> None:
        """Find out whether messages still reach the hosts whose chores this worker does, and repair what is missing."""
        self._bus.probe(sorted(self._engine.held))

    def _prune(self) -> None:
        # Copies wait while this worker is disconnected or does not run, and arrive when it is back. However old they are by
        # then, the inbox still knows their messages for as long as it knows a message whose copy comes immediately.
        now, retention = self._clock.monotonic(), self._conf.database.inbox_retention_seconds
        if not self._bus.connected():
            self._connected_at = None
        elif self._connected_at is None:
            self._connected_at = now
        settled = self._connected_at is not None and now - self._connected_at >= retention
        self._engine.prune(
            inbox_seconds=retention,
            keeps_inbox=not settled,
            outbox_seconds=self._conf.notifications.retention_hours * 3600,
        )

    @property
    def hosts(self) -> Sequence[str]:
        """The hosts that this worker serves."""
        return self._hosts

    def ready(self) -> bool:
        """Whether requests are being consumed now, as the active worker or as a standby. A worker whose hosts are all served
        from other ledgers is not ready."""
        return self._ownership.settled() and self._bus.connected()

    def settled(self) -> bool:
        """Whether this worker has received something from the queue of each host whose chores it does."""
        return self._engine.held <= self._engine.active

    def standing(self) -> str:
        """Which hosts this worker is active for, and which it is a standby for: "active for h1, h2; standby for h3". Changes
        are logged from now on. Hosts that another ledger owns come last: "refused: h4"."""
        self._engine.announce()
        active, served = self._engine.active, self._ownership.served()
        parts = {
            "active for": [host for host in served if host in active],
            "standby for": [host for host in served if host not in active],
            "refused:": [host for host in self._hosts if host not in served],
        }
        return "; ".join(f"{what} {', '.join(hosts)}" for what, hosts in parts.items() if hosts)

    def recent_decisions(self) -> Sequence[str]:
        """The last decisions, the oldest first, each as one line. Any thread."""
        return ()

    def queues(self) -> dict[str, tuple[int, int]]:
        """What waits in this worker: name of the queue -> number of messages and of the bytes of their bodies. Any thread."""
        return {**self._bus.queues(), "unadmitted": self._ownership.unadmitted(), **self._engine.queues()}

    def sections(self) -> list[Section]:
        """What a report says of this worker. Any thread, at any time between the constructor and the end of the process."""
        return sections(
            owner=self._owner,
            hosts=self._hosts,
            engine=self._engine,
            ownership=self._ownership,
            bus=self._bus,
            store=self._store,
            inventories=self._inventories,
            counters=self.counters,
            queues=self.queues,
            recent_decisions=self.recent_decisions,
            ready=self.ready,
        )

    def reload(self) -> None:
        """Read the mutable options, the broker's user and password, and the inventory files again. What is wrong there is
        logged, and the old values hold."""
        try:
            self._conf.mutate_config_files()
            self._policy = read_policy(self._conf)
        except SystemExit:  # oslo.config's word for a bad value of some options of [DEFAULT]
            LOG.error("the configuration is not reloaded: an option of [DEFAULT] has a bad value; stderr names it")
        except (cfg.Error, ConfigurationError, OSError, ValueError) as error:
            LOG.error("the configuration is not reloaded: %s", error)
        self._bus.reload(self._conf)
        for host, driver in self._drivers.items():
            try:
                driver.reload()
            except ConfigurationError as error:
                LOG.error("the inventory of host %s is not reloaded: %s", host, error)
        self._audit_all()
        LOG.info("reloaded")

    def stop(self, seconds: float | None = None) -> None:
        """Stop all parts within so many seconds; None: ``[tracker] stop_seconds``. What is not finished by then is left to the
        end of the process. Cancels a start that another thread makes."""
        until = self._monotonic() + (self._stop_seconds if seconds is None else seconds)
        self._stopping = True
        if self._first_audit is not None:
            self._first_audit.cancel()
        if self._starting.acquire(timeout=max(0.0, until - self._monotonic())):
            self._starting.release()
            self._stop_parts(until - self._monotonic())

    def _stop_parts(self, seconds: float) -> None:
        """Every part gets what the parts before it have left of the time."""
        until = self._monotonic() + seconds
        self._watchdog.stop()
        self._timers.stop(seconds)
        self._inventories.stop()
        self._ownership.stop(min(seconds, _OWNERSHIP_STOP_SECONDS))
        self._bus.pause()
        for_engine = (1 - _PUBLISHING_SHARE) * (until - self._monotonic())
        finished = self._engine.stop(for_engine)
        self._bus.stop(max(0.0, until - self._monotonic()))
        if not finished:
            LOG.warning("the engine has not finished its batch within %g s; the next start decides it", for_engine)
            return  # it may be using the store
        self._engine.release()
        self._store.stop()
        LOG.info("counters: %s", self.counters.snapshot())


def _driver(conf: cfg.ConfigOpts, host: str) -> InventoryDriver:
    name = conf.tracker.inventory_driver
    try:
        return load_driver(name, host, conf)
    except ConfigurationError as error:
        raise ConfigurationError(f"[tracker] inventory_driver {name}: {error}") from error
