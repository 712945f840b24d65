# SPDX-License-Identifier: Apache-2.0
"""The worker: builds its parts, starts them in order, and stops them in order. The only room that chooses drivers.

Start: store and its schema -> service records -> engine -> one inventory report of every host, committed -> bus. No claim is
received before the first inventory.

Stop: take nothing new -> finish and commit the batch in hand -> replies and notifications out and confirmed,
acknowledgements out -> connections closed without a basic.cancel, so that what was not started goes back in order -> store.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from importlib.metadata import version

from oslo_config import cfg

from tracker_worker.bus.amqp.bus import AMQPBus
from tracker_worker.bus.base import Bus, Listener
from tracker_worker.bus.settings import read_settings
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.domain.policy import Policy, read_policy
from tracker_worker.domain.times import SECOND
from tracker_worker.errors import ConfigurationError, TrackerError
from tracker_worker.inventory.base import InventoryDriver, load_driver
from tracker_worker.service.chores.inventories import Auditor, Report
from tracker_worker.service.chores.leases import LEASE_SECONDS
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.chores.timers import Timers
from tracker_worker.service.loop.batch import Chore
from tracker_worker.service.loop.engine import Engine
from tracker_worker.service.requests.pending import Intake
from tracker_worker.store.base import Store
from tracker_worker.store.sql.location import prepared_url
from tracker_worker.store.sql.store import SQLStore

LOG = logging.getLogger(__name__)

_FIRST_AUDIT_SECONDS = 120
_STOP_SECONDS = 10.0
_PRUNE_SECONDS = 30
# Before there were computers.
_ALL_SECONDS = 10**10


def now_microseconds() -> int:
    """The clock of a worker: the time of day."""
    return time.time_ns() // 1000


class Worker:
    """``start`` is synchronous and may fail with ConfigurationError; ``stop`` returns when everything has stopped, and is
    harmless without a start and a second time. ``died`` is called, on any thread, when a part has failed beyond repair."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        bus: Bus | None = None,
        store: Store | None = None,
        clock: Callable[[], int] = now_microseconds,
        died: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._conf = conf
        self._hosts = _hosts(conf)
        self._died = died or (lambda error: None)
        self._policy = read_policy(conf)
        self._bus = bus or AMQPBus(read_settings(conf))
        self._drivers: dict[str, InventoryDriver] = {
            host: load_driver(conf.tracker.inventory_driver, host, conf) for host in self._hosts
        }
        self._store = store or SQLStore(prepared_url(conf))
        self._clock = clock
        self._connected_at: int | None = None
        self._timers = Timers(self._died)
        self._auditor = Auditor(self._drivers, self._policy.reserved)
        messaging = conf.notifications.driver == "messaging"
        self._engine = Engine(
            store=self._store,
            bus=self._bus,
            relay=Relay(self._store, self._bus) if messaging else None,
            auditor=self._auditor,
            policy=self._current_policy,
            hosts=self._hosts,
            owner=f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}",
            conflict_retries=conf.database.conflict_retries,
            clock=clock,
            died=self._died,
        )

    def _current_policy(self) -> Policy:
        return self._policy

    def start(self) -> None:
        """Raises ConfigurationError; what was started by then is stopped again."""
        try:
            self._start()
        except TrackerError as error:
            self.stop()
            raise ConfigurationError(f"the worker cannot start: {error}") from error
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self._store.start()
        for host in self._hosts:
            self._store.register_host(
                host, topic=self._conf.tracker.topic, version=version("tracker-worker"), now=self._clock()
            )
        self._engine.start()
        self._auditor.start()
        self._first_audit()
        intake = Intake(
            bus=self._bus,
            served=self._hosts,
            policy=self._current_policy,
            max_body_bytes=self._conf.bus.max_body_bytes,
            every=self._timers.every,
            submit=self._engine.submit,
        )
        self._bus.start(
            self._hosts,
            Listener(received=intake.received, confirmed=self._engine.confirmed, died=self._died),
        )
        self._engine.renew_leases()
        self._timers.every(LEASE_SECONDS / 3, self._engine.renew_leases)
        self._timers.every(self._conf.tracker.audit_interval_seconds, self._audit_all)
        self._timers.every(_PRUNE_SECONDS, self._prune)
        self._timers.start()

    def _first_audit(self) -> None:
        """Every host's inventory, committed."""
        first = _FirstAudit(self._engine, len(self._hosts))
        for host in self._hosts:
            self._auditor.audit(host, None, first.report)
        first.wait(_FIRST_AUDIT_SECONDS)

    def _audit_all(self) -> None:
        for host in self._hosts:
            self._engine.audit(host)

    def _prune(self) -> None:
        # Copies wait while this worker is cut off or does not run, and come when it is back: however old they are by then,
        # the inbox still knows them for as long as it knows one that comes at once.
        now, retention = self._clock(), self._conf.database.inbox_retention_seconds
        if not self._bus.connected():
            self._connected_at = None
        elif self._connected_at is None:
            self._connected_at = now
        settled = self._connected_at is not None and now - self._connected_at >= retention * SECOND
        self._engine.prune(
            inbox_seconds=retention if settled else _ALL_SECONDS,
            outbox_seconds=self._conf.notifications.retention_hours * 3600,
        )

    def ready(self) -> bool:
        """Whether requests are being consumed now, as the active worker or as a standby."""
        return self._bus.connected()

    def reload(self) -> None:
        """Read the mutable options and the inventory files again; what is wrong there is logged, and what held, holds."""
        try:
            self._conf.mutate_config_files()
            self._policy = read_policy(self._conf)
        except (cfg.Error, ValueError) as error:
            LOG.error("the configuration is not reloaded: %s", error)
        for host, driver in self._drivers.items():
            try:
                driver.reload()
            except ConfigurationError as error:
                LOG.error("the inventory of host %s is not reloaded: %s", host, error)
        self._audit_all()
        LOG.info("reloaded")

    def stop(self) -> None:
        self._timers.stop()
        self._auditor.stop()
        self._bus.pause()
        self._engine.stop()
        self._bus.stop(_STOP_SECONDS)
        self._engine.release()
        self._store.stop()


class _FirstAudit:
    """Waits until the inventory of every host is committed, or one has failed."""

    def __init__(self, engine: Engine, waiting: int) -> None:
        self._engine = engine
        self._condition = threading.Condition()
        self._waiting = waiting
        self._error: Exception | None = None

    def report(self, report: Report) -> None:
        """On the auditor's threads."""
        if report.errors:
            self._failed(report.errors[0])
        else:
            self._engine.submit(
                Chore(host=report.host, commands=report.found, done=self._committed, failed=self._failed)
            )

    def _committed(self, host: HostLedger) -> None:
        with self._condition:
            self._waiting -= 1
            self._condition.notify()

    def _failed(self, error: Exception) -> None:
        with self._condition:
            self._error = self._error or error
            self._condition.notify()

    def wait(self, seconds: float) -> None:
        with self._condition:
            done = self._condition.wait_for(lambda: not self._waiting or self._error is not None, seconds)
        if self._error is not None:
            raise ConfigurationError(f"the first inventory failed: {self._error}") from self._error
        if not done:
            raise ConfigurationError(f"the inventory driver has not answered within {seconds} s")


def _hosts(conf: cfg.ConfigOpts) -> list[str]:
    hosts = list(dict.fromkeys(conf.tracker.hosts))
    if not hosts or not all(hosts):
        raise ConfigurationError("[tracker] hosts names no host")
    if len(hosts) > 1 and conf.tracker.inventory_driver == "host":
        raise ConfigurationError(
            "[tracker] inventory_driver host reports this one machine; with several hosts choose another driver"
        )
    return hosts
