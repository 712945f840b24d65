# SPDX-License-Identifier: Apache-2.0
"""The worker: builds its parts, starts them in order, and stops them in order. The only module of the service that chooses
drivers.

Start: the health listener -> store and its schema -> service records -> the hosts' markers on the broker, and what of the
hosts this worker's ledger may serve -> free leases -> engine -> one inventory of every host, committed for the hosts whose
lease this worker has, and for others where the ledger has none -> bus. Drivers that do not answer in time are not waited for.

Stop: receive nothing new -> finish and commit the batch in hand -> publish replies and notifications until they are
confirmed, and acknowledge -> close the connections without a basic.cancel, so that messages which were not started return
to their queues in order -> store -> the health listener."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from importlib.metadata import version
from operator import attrgetter

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.bus.amqp.bus import AMQPBus
from tracker_worker.bus.base import Bus, Listener
from tracker_worker.bus.settings import read_settings
from tracker_worker.conf.names import read_hosts, topic_options
from tracker_worker.conf.policy import read_policy
from tracker_worker.conf.reloading import reload
from tracker_worker.counters import Counters
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import MAX_TIMEOUT_SECONDS, SECOND
from tracker_worker.errors import ConfigurationError, TrackerError
from tracker_worker.inventory.base import InventoryDriver, configured_driver
from tracker_worker.notifications.dialects.table import read_topics
from tracker_worker.notifications.style import read_calendar, read_style
from tracker_worker.service.chores import periods
from tracker_worker.service.chores.inventories import Inventories
from tracker_worker.service.chores.orphans import LOOK_SECONDS
from tracker_worker.service.chores.ownership import Ownership
from tracker_worker.service.chores.retention import PRUNE_SECONDS, Retention
from tracker_worker.service.chores.timers import Timers
from tracker_worker.service.clock import Clock
from tracker_worker.service.first_audit import FirstAudit, StartCancelled
from tracker_worker.service.health.readiness import Document
from tracker_worker.service.loop.reporting import configured_reporting
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.requests.permissions import Permissions
from tracker_worker.service.requests.reader import RequestReader
from tracker_worker.service.requests.replying import read_reply_queues
from tracker_worker.service.watchdog import Watchdog
from tracker_worker.service.window import Window
from tracker_worker.store.base import LEASE_SECONDS, AnotherHistory, Store
from tracker_worker.store.sql.location import place_of, prepared_url
from tracker_worker.store.sql.migration import head
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
_OWNERSHIP_STOP_SECONDS = 1.0


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
        turned: Callable[[float], float] | None = None,
        log_fields: bool = False,
        log_records_dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        """``bus``, ``store`` and ``drivers``, which gives the inventory driver of a host, None: those that the configuration
        names. ``clock`` is the time of day of this machine in microseconds, which is the time of a store on SQLite that the
        configuration names; ``monotonic`` gives seconds, and carries the time of the store on; None: the clock of ``runtime``,
        from which the worker also has its threads. ``stalled`` gets a sentence when the engine hangs (see ``watchdog``), and
        should end the process without waiting for the worker; None: ``died`` is called. ``turned``: see ``EngineThread``. The
        log takes figures and who asked as ``log_fields``, and has not taken ``log_records_dropped`` records."""
        self._conf = conf
        self._runtime = runtime
        self._monotonic = runtime.monotonic
        self._hosts = read_hosts(conf)
        self._died = died or (lambda error: None)
        self._policy = read_policy(conf)
        self._reply_queues = read_reply_queues(conf)
        self._permissions = Permissions(conf)
        self._bus = bus or AMQPBus(read_settings(conf))
        made = drivers or partial(configured_driver, conf)
        self._drivers = {host: made(host) for host in self._hosts}
        self._store = store or SQLStore(prepared_url(conf), now=clock)
        self._clock = Clock(self._store.time, monotonic=monotonic or runtime.monotonic)
        self._retention = Retention(conf, self._bus, self._clock)
        self._owner = f"{runtime.process()}:{runtime.random_bytes(4).hex()}"
        self.counters = Counters()
        self._stop_seconds = float(conf.tracker.stop_seconds)
        self._starting = runtime.lock()
        self._stopping = False
        self._first_audit: FirstAudit | None = None
        place = "" if store is not None else place_of(conf)
        reporting = configured_reporting(conf, runtime, log_fields=log_fields, store_place=place, worker=self._owner)
        self.reporting, self.tally = reporting, reporting.tally
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
            reporting=reporting,
            turned=turned,
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
            submit=self._engine.receive,
            submit_later=self._engine.submit,
            reply_queues=self._reply_queues,
            permissions=self._permissions,
            worker=self._owner,
            monotonic=runtime.monotonic,
            trace=reporting.trace,
        )
        self._ownership = Ownership(
            store=self._store,
            bus=self._bus,
            hosts=self._hosts,
            worker=self._owner,
            received=self._reader.received,
            waited=self._reader.waited,
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
        self.window = Window(
            conf,
            store=self._store,
            bus=self._bus,
            engine=self._engine,
            ownership=self._ownership,
            watchdog=self._watchdog,
            hosts=self._hosts,
            topics=list(topic_options(conf)),
            counters=self.counters,
            tally=self.tally,
            schema=head(),
            clock=self._clock,
            inventories=self._inventories,
            owner=self._owner,
            log_records_dropped=log_records_dropped,
            monotonic=runtime.monotonic,
            runtime=runtime,
            died=self._died,
        )
        self.health = self.window.health

    def _policy_of_requests(self) -> Policy:
        """The policy of the moment. After a step of the clock forward, of which a worker that has just started does not know,
        deletions look older than they are: for as long as they are remembered, all count."""
        policy = self._policy
        return _remembering_all(policy) if self._clock.unsure_within(policy.deletion_memory / SECOND) else policy

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
        self.health.listen()
        self.health.starting("it waits for the database")
        if self._conf.notifications.driver == "messaging" and not topic_options(self._conf):
            LOG.info("[notifications] topics is empty: notifications are kept in the database and not published")
        self._store.start()
        for host in self._hosts:
            self._go_on()
            self._register_host(host)
        self._engine.allow(frozenset())
        self.health.starting("it waits for the broker, to look at the markers of its hosts")
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
        self.health.starting("it waits for the inventory drivers")
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
        self._timers.every(1, self._engine.keep_outcomes)
        self._timers.every(PRUNE_SECONDS, lambda: self._engine.prune(**self._retention.look()))
        self._timers.every(self.health.period_seconds, self.probe)
        self._timers.start()
        self.window.start()
        self.health.started()

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
        self.health.look()

    def readiness(self) -> Document:
        """The document of /readyz: whether the worker does its work, for which hosts, and what is in the way. Any thread."""
        return self.health.readiness()

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

    def reload(self) -> None:
        """Read the mutable options, the broker's user and password, the policy file and the inventory files again. What is
        wrong there is logged, and the old values hold."""
        try:
            reload(self._conf)
            self._policy = read_policy(self._conf)
        except SystemExit:  # oslo.config's word for a bad value of some options of [DEFAULT]
            LOG.error("the configuration is not reloaded: an option of [DEFAULT] has a bad value; stderr names it")
        except (cfg.Error, ConfigurationError, OSError, ValueError) as error:
            LOG.error("the configuration is not reloaded: %s", error)
        try:
            self._permissions.reload(self._conf)
        except ConfigurationError as error:
            LOG.error("the policy file is not reloaded: %s", error)
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
        self.health.stopping()
        if self._first_audit is not None:
            self._first_audit.cancel()
        if self._starting.acquire(timeout=max(0.0, until - self._monotonic())):
            self._starting.release()
            self._stop_parts(until - self._monotonic())

    def _stop_parts(self, seconds: float) -> None:
        try:
            self._stop_in_order(seconds)
        finally:
            self.health.close()  # it says until the end that the worker stops

    def _stop_in_order(self, seconds: float) -> None:
        """Every part gets what the parts before it have left of the time."""
        until = self._monotonic() + seconds
        self._watchdog.stop()
        self.window.stop(seconds)
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
        self.reporting.stop(max(0.0, until - self._monotonic()))
        LOG.info("counters: %s", self.counters.snapshot())


@lru_cache(maxsize=1)
def _remembering_all(policy: Policy) -> Policy:
    memory = MAX_TIMEOUT_SECONDS * SECOND
    return replace(policy, deletion_memory=memory, move_memory=memory)
