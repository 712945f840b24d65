# SPDX-License-Identifier: Apache-2.0
"""The demo's cloud: two workers, a client for the scheduler, and a notification consumer for billing.

One worker serves a fleet of hosts from an inventory file, the other one this machine. The bus is in memory, or a real broker
on which all names are the demo's own; the queues and the markers of the hosts are deleted at the end.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from oslo_config import cfg

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.amqp.bus import AMQPBus
from tracker_worker.bus.base import Bus
from tracker_worker.bus.memory import MemoryBroker, MemoryBus, MemoryClient
from tracker_worker.bus.settings import read_settings
from tracker_worker.cli.adoption import adopt_host
from tracker_worker.cli.context import PROJECT, Settings
from tracker_worker.cli.demo.invoice import PERIOD_SECONDS
from tracker_worker.client.api import TrackerAPI
from tracker_worker.client.transport import remote_error
from tracker_worker.notifications.notification import PRIORITIES
from tracker_worker.oslo import oslo_messaging
from tracker_worker.service.worker import Worker
from tracker_worker.store.base import Store
from tracker_worker.store.sql.location import sqlite_url
from tracker_worker.store.sql.store import SQLStore
from tracker_worker.wire.message import decode_message

Receive = Callable[[dict[str, Any]], None]

LOG = logging.getLogger(__name__)

MACHINE = "localhost"
_CALL_SECONDS = 30


class Cloud(ABC):
    """The workers and the notification consumer. ``start`` and ``stop`` are synchronous; ``stop`` may be called again.
    ``ledger_id`` is that of the database, once it is started."""

    def __init__(self, settings: Settings, directory: Path, hosts: int) -> None:
        self.fleet = [f"host-{number}" for number in range(1, hosts + 1)]
        self.hosts = [*self.fleet, MACHINE]
        self._settings = settings
        self._directory = directory
        self._fleet_file = directory / "fleet.yaml"
        self._workers: list[Worker] = []
        self.ledger_id = ""

    def _conf(self, hosts: Sequence[str], driver: str, **overrides: Any) -> cfg.ConfigOpts:
        return self._settings.load(
            tracker__hosts=list(hosts),
            tracker__inventory_driver=driver,
            tracker__state_path=str(self._directory),
            inventory__static_file=str(self._fleet_file),
            database__connection=sqlite_url(self._directory / "demo.sqlite"),
            notifications__usage_audit_period=f"{PERIOD_SECONDS}s",
            health__listen="",  # the port is that of the machine's worker
            oslo_policy__policy_file="",
            **overrides,
        )

    def start(self, receive: Receive) -> TrackerAPI:
        """Start the workers and the consumer, and return the scheduler's client. Raises ConfigurationError."""
        self._fleet_file.write_text(
            yaml.safe_dump({"hosts": {host: _nodes(number) for number, host in enumerate(self.fleet)}})
        )
        for hosts, driver in ((self.fleet, "static"), ([MACHINE], "host")):
            conf = self._worker_conf(hosts, driver)
            self._adopt_hosts(conf)
            worker = Worker(conf, bus=self._bus(conf), died=self._died)
            self._workers.append(worker)
            worker.start()
        self._listen(receive)
        return self._api()

    def _adopt_hosts(self, conf: cfg.ConfigOpts) -> None:
        """Make the demo's database the ledger of these hosts, whatever an earlier demo has left on the broker."""
        store = SQLStore(conf.database.connection)
        store.start()
        try:
            for host in conf.tracker.hosts:
                store.register_host(host, topic=conf.tracker.topic, version=version(PROJECT), now=store.time())
            self._adopt(store, conf)
            self.ledger_id = store.histories()[-1].ledger_id
        finally:
            store.stop()

    def _adopt(self, store: Store, conf: cfg.ConfigOpts) -> None:  # noqa: B027 only a broker keeps anything
        """Have the hosts of ``conf``, which are registered, served from ``store``."""

    def _died(self, error: BaseException) -> None:
        LOG.critical("a worker of the demo failed: %s", error)

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    @abstractmethod
    def _worker_conf(self, hosts: Sequence[str], driver: str) -> cfg.ConfigOpts: ...

    @abstractmethod
    def _bus(self, conf: cfg.ConfigOpts) -> Bus: ...

    @abstractmethod
    def _listen(self, receive: Receive) -> None: ...

    @abstractmethod
    def _api(self) -> TrackerAPI: ...


def _nodes(number: int) -> dict[str, Any]:
    big = {"vcpus": 64, "memory_mb": 262144, "local_gb": 4000}
    small = {"vcpus": 16, "memory_mb": 65536, "local_gb": 1000}
    nodes = {"node-1": big if number % 2 else small}
    if number % 3 == 0:
        nodes["node-2"] = small
    return {"nodes": nodes}


class MemoryCloud(Cloud):
    """The workers, the bus and the consumer are all in this process."""

    def __init__(self, settings: Settings, directory: Path, hosts: int) -> None:
        super().__init__(settings, directory, hosts)
        self._broker = MemoryBroker()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def _worker_conf(self, hosts: Sequence[str], driver: str) -> cfg.ConfigOpts:
        return self._conf(hosts, driver)

    def _bus(self, conf: cfg.ConfigOpts) -> Bus:
        return MemoryBus(self._broker)

    def _listen(self, receive: Receive) -> None:
        def listen() -> None:
            while (body := self._broker.notifications.get()) != b"":
                receive(decode_message(body))

        self._thread = threading.Thread(target=listen, name="demo-billing", daemon=True)
        self._thread.start()

    def _api(self) -> TrackerAPI:
        return TrackerAPI(self._settings.load(), MemoryTransport(MemoryClient(self._broker)))

    def stop(self) -> None:
        super().stop()
        if self._thread is not None:
            self._broker.notifications.put(b"")
            self._thread.join()
            self._thread = None


class MemoryTransport:
    """The clients' Transport on the in-memory bus."""

    def __init__(self, client: MemoryClient) -> None:
        self._client = client

    def call(self, context: Mapping[str, Any], host: str, method: str, args: Mapping[str, Any]) -> Any:
        reply = self._client.call(host, context, method, args, _CALL_SECONDS)
        if reply["failure"] is not None:
            raise remote_error(reply["failure"])
        return reply["result"]

    def cast(self, context: Mapping[str, Any], host: str, method: str, args: Mapping[str, Any]) -> None:
        self._client.cast(host, context, method, args)


class BrokerCloud(Cloud):
    """The workers are in this process, the bus is RabbitMQ, and the clients are stock oslo.messaging clients."""

    def __init__(self, settings: Settings, directory: Path, hosts: int, transport_url: str) -> None:
        super().__init__(settings, directory, hosts)
        self._url = transport_url
        self._name = f"tracker-demo-{uuid4().hex[:8]}"
        self._dead_letters = f"{self._name}_dead"
        self._listener: Any = None
        self._has_queues = False

    def _adopt(self, store: Store, conf: cfg.ConfigOpts) -> None:
        self._has_queues = True
        for host in conf.tracker.hosts:
            adopt_host(store, conf, host)

    def _worker_conf(self, hosts: Sequence[str], driver: str) -> cfg.ConfigOpts:
        return self._conf(
            hosts,
            driver,
            transport_url=self._url,
            tracker__topic=self._name,
            bus__dead_letter_queue=self._dead_letters,
            notifications__topics=[self._name],
        )

    def _bus(self, conf: cfg.ConfigOpts) -> Bus:
        return AMQPBus(read_settings(conf))

    def _listen(self, receive: Receive) -> None:
        class Endpoint:
            def info(self, ctxt: Any, publisher: str, event_type: str, payload: Any, metadata: Any) -> None:
                receive({"event_type": event_type, "payload": payload, "message_id": metadata["message_id"]})

            warn = info

        conf = self._worker_conf(self.hosts, "static")
        transport = oslo_messaging.get_notification_transport(conf)
        self._listener = oslo_messaging.get_notification_listener(
            transport, [oslo_messaging.Target(topic=self._name)], [Endpoint()], executor="threading"
        )
        # One thread: billing checks the order of the notifications.
        self._listener.start(override_pool_size=1)

    def _api(self) -> TrackerAPI:
        return TrackerAPI(self._worker_conf(self.hosts, "static"))

    def stop(self) -> None:
        super().stop()
        if self._listener is not None:
            self._listener.stop()
            self._listener.wait()
            self._listener = None
        if self._has_queues:
            self._has_queues = False
            self._delete_queues()

    def _delete_queues(self) -> None:
        conf = self._worker_conf(self.hosts, "static")
        settings = read_settings(conf)
        connection = settings.connection(settings.urls[0])
        connection.connect()
        try:
            names = [self._name, self._dead_letters]
            for host in self.hosts:
                names += [topology.host_queue(settings, host).name, topology.ledger_queue(settings, host).name]
            names += [f"{self._name}.{priority.lower()}" for priority in PRIORITIES]
            with connection.channel() as channel:
                for name in names:
                    channel.queue_delete(name)
        finally:
            connection.close()
