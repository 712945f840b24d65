# SPDX-License-Identifier: Apache-2.0
"""The worker: builds its parts, starts them in order, and stops them in order. The only module of the service that chooses
drivers.

Start: store and its schema -> service records -> engine -> one inventory report of every host, committed -> bus. No claim is
received before the first inventory.

Stop: receive nothing new -> finish and commit the batch in hand -> publish replies and notifications until they are
confirmed, and acknowledge -> close the connections without a basic.cancel, so that messages which were not started return
to their queues in order -> store."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from operator import attrgetter

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.bus.amqp.bus import AMQPBus
from tracker_worker.bus.base import Bus, Listener
from tracker_worker.bus.settings import read_settings
from tracker_worker.conf.policy import read_policy
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import ConfigurationError, TrackerError
from tracker_worker.inventory.base import InventoryDriver, load_driver
from tracker_worker.service.chores.inventories import Inventories
from tracker_worker.service.chores.leases import LEASE_SECONDS
from tracker_worker.service.chores.timers import Timers
from tracker_worker.service.first_audit import FirstAudit
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.requests.reader import RequestReader
from tracker_worker.store.base import Store
from tracker_worker.store.sql.location import prepared_url
from tracker_worker.store.sql.store import SQLStore

LOG = logging.getLogger(__name__)

_FIRST_AUDIT_SECONDS = 120
_STOP_SECONDS = 10.0
_PRUNE_SECONDS = 30
# 317 years: no row is that old.
_NO_ROW_SECONDS = 10**10


class Worker:
    """``start`` is synchronous and may fail with ConfigurationError. ``stop`` returns when everything has stopped, and is
    harmless without a start and a second time. ``died`` is called, on any thread, when a part has failed beyond repair."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        bus: Bus | None = None,
        store: Store | None = None,
        clock: Callable[[], int] = threads.now_microseconds,
        died: Callable[[BaseException], None] | None = None,
    ) -> None:
        """``bus`` and ``store`` None: those that the configuration names. ``clock`` gives microseconds."""
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
        self._inventories = Inventories(self._drivers, self._policy.reserved)
        # The policy of the moment: ``reload`` replaces it.
        self._current_policy: Callable[[], Policy] = partial(attrgetter("_policy"), self)
        self._engine = EngineThread(
            store=self._store,
            bus=self._bus,
            inventories=self._inventories,
            policy=self._current_policy,
            hosts=self._hosts,
            owner=f"{socket.gethostname()}:{os.getpid()}:{threads.random_bytes(4).hex()}",
            notify=conf.notifications.driver == "messaging",
            conflict_retries=conf.database.conflict_retries,
            clock=clock,
            died=self._died,
        )

    def start(self) -> None:
        """Raises ConfigurationError; the parts that were started by then are stopped again."""
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
        self._inventories.start()
        FirstAudit(self._engine, self._inventories, self._hosts).run(_FIRST_AUDIT_SECONDS)
        reader = RequestReader(
            bus=self._bus,
            served=self._hosts,
            policy=self._current_policy,
            max_body_bytes=self._conf.bus.max_body_bytes,
            every=self._timers.every,
            submit=self._engine.submit,
        )
        self._bus.start(
            self._hosts,
            Listener(received=reader.received, confirmed=self._engine.confirmed, died=self._died),
        )
        self._engine.renew_leases()
        self._timers.every(LEASE_SECONDS / 3, self._engine.renew_leases)
        self._timers.every(self._conf.tracker.audit_interval_seconds, self._audit_all)
        self._timers.every(_PRUNE_SECONDS, self._prune)
        self._timers.start()

    def _audit_all(self) -> None:
        for host in self._hosts:
            self._engine.audit(host)

    def _prune(self) -> None:
        # Copies wait while this worker is disconnected or does not run, and arrive when it is back. However old they are by
        # then, the inbox still knows their messages for as long as it knows a message whose copy comes immediately.
        now, retention = self._clock(), self._conf.database.inbox_retention_seconds
        if not self._bus.connected():
            self._connected_at = None
        elif self._connected_at is None:
            self._connected_at = now
        settled = self._connected_at is not None and now - self._connected_at >= retention * SECOND
        self._engine.prune(
            inbox_seconds=retention if settled else _NO_ROW_SECONDS,
            outbox_seconds=self._conf.notifications.retention_hours * 3600,
        )

    def ready(self) -> bool:
        """Whether requests are being consumed now, as the active worker or as a standby."""
        return self._bus.connected()

    def reload(self) -> None:
        """Read the mutable options and the inventory files again. What is wrong there is logged, and the old values hold."""
        try:
            self._conf.mutate_config_files()
            self._policy = read_policy(self._conf)
        except (cfg.Error, ValueError) as error:
            LOG.error("the configuration is not reloaded: %s", error)
        self._bus.reload(self._conf)
        for host, driver in self._drivers.items():
            try:
                driver.reload()
            except ConfigurationError as error:
                LOG.error("the inventory of host %s is not reloaded: %s", host, error)
        self._audit_all()
        LOG.info("reloaded")

    def stop(self) -> None:
        self._timers.stop()
        self._inventories.stop()
        self._bus.pause()
        self._engine.stop()
        self._bus.stop(_STOP_SECONDS)
        self._engine.release()
        self._store.stop()


def _hosts(conf: cfg.ConfigOpts) -> list[str]:
    hosts = list(dict.fromkeys(conf.tracker.hosts))
    if not hosts or not all(hosts):
        raise ConfigurationError("[tracker] hosts names no host")
    if len(hosts) > 1 and conf.tracker.inventory_driver == "host":
        raise ConfigurationError(
            "[tracker] inventory_driver host reports this one machine; with several hosts choose another driver"
        )
    return hosts
