# SPDX-License-Identifier: Apache-2.0
"""Stock oslo.messaging programs as schedulers and billing use them. From this project they use only the names of the errors."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support import returned
from tests.support.deadline import wait_until
from tests.support.messaging import oslo_messaging
from tests.wire.stock import configuration

# The pool logs this for every call that waits for a connection.
logging.getLogger("oslo.messaging._drivers.pool").setLevel(logging.ERROR)

# The exceptions of a call without an answer. ConnectionError: the connection is lost while a channel is opened on it, which
# ensure_connection of oslo.messaging 18.3.1 does not expect.
UNANSWERED = (oslo_messaging.MessagingTimeout, oslo_messaging.MessageDeliveryFailure, ConnectionError)

# The exception of a request that the broker has returned, because its exchange has no queue for it.
RETURNED = oslo_messaging.MessageUndeliverable

TOPIC = "tracker"
CONTEXT = {"project_id": "project-of-context", "user_id": "user-of-context", "request_id": "req-1"}
# TrackerAPI lists these modules too.
EXMODS = ["tracker_worker.errors", "oslo_messaging.rpc.dispatcher"]


class Client:
    """A stock RPC client of one transport. Thread-safe, as stock clients are.

    With ``at_least_once``, a request for which the broker has no queue raises RETURNED; otherwise the broker drops it.
    """

    def __init__(self, transport: Any, timeout: float, *, at_least_once: bool = False) -> None:
        self.transport = transport
        self._client = oslo_messaging.get_rpc_client(
            transport,
            oslo_messaging.Target(topic=TOPIC, version="1.0"),
            timeout=timeout,
            transport_options=oslo_messaging.TransportOptions(at_least_once=at_least_once),
        )

    def prepare(self, host: str | None = None, **options: Any) -> Any:
        """A call context for a host's topic, or (None) for the shared topic."""
        return self._client.prepare(**({"server": host} if host else {}), **options)

    def call(self, host: str | None, method: str, /, **arguments: Any) -> Any:
        return self.prepare(host).call(CONTEXT, method, **arguments)

    def cast(self, host: str | None, method: str, /, **arguments: Any) -> None:
        self.prepare(host).cast(CONTEXT, method, **arguments)

    def fanout(self, method: str, /, **arguments: Any) -> None:
        self.prepare(fanout=True).cast(CONTEXT, method, **arguments)


@contextmanager
def client(url: str, *, timeout: float = 30, at_least_once: bool = False, **rabbit_options: Any) -> Iterator[Client]:
    """A client whose calls time out after ``timeout`` seconds."""
    rabbit_options = {"rabbit_interval_max": 1, **rabbit_options}
    if at_least_once:
        returned.install()
    transport = oslo_messaging.get_rpc_transport(configuration(url, **rabbit_options), allowed_remote_exmods=EXMODS)
    try:
        yield Client(transport, timeout, at_least_once=at_least_once)
    finally:
        transport.cleanup()
        gc.collect()  # closes its leftovers here and not during another test


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One notification as a listener's endpoint receives it."""

    priority: str
    context: Mapping[str, Any]
    publisher_id: str
    event_type: str
    payload: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @property
    def node(self) -> tuple[str, str]:
        return self.payload["host"], self.payload["node"]

    @property
    def sequence(self) -> int:
        return int(self.payload["sequence"])

    @property
    def message_id(self) -> str:
        return str(self.metadata["message_id"])


class Listener:
    """The endpoint of a notification listener. It records every notification of every priority, in order of arrival."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: list[Heard] = []
        for priority in ("audit", "debug", "info", "warn", "error", "critical", "sample"):
            setattr(self, priority, self._endpoint(priority))

    def _endpoint(self, priority: str) -> Callable[..., None]:
        def hear(context: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
            heard = Heard(
                priority=priority,
                context=context,
                publisher_id=publisher_id,
                event_type=event_type,
                payload=payload,
                metadata=metadata,
            )
            with self._lock:
                self._heard.append(heard)

        return hear

    def heard(self, host: str | None = None, node: str | None = None) -> list[Heard]:
        """The notifications so far: all, those of a host or those of a node."""
        with self._lock:
            heard = list(self._heard)
        return [one for one in heard if (host is None or one.node[0] == host) and (node is None or one.node[1] == node)]

    def wait_for(self, host: str, node: str, sequence: int) -> list[Heard]:
        """Wait until every sequence up to ``sequence`` has arrived, and return the node's notifications."""
        wanted = set(range(1, sequence + 1))

        def complete() -> bool:
            return wanted <= {one.sequence for one in self.heard(host, node)}

        def missing_notifications() -> str:
            missing = sorted(wanted - {one.sequence for one in self.heard(host, node)})
            return f"all of {sequence} notifications of {host}/{node}; {len(missing)} lack: {missing[:20]}"

        wait_until(complete, missing_notifications)
        return self.heard(host, node)


@contextmanager
def listener(url: str, *, topics: Sequence[str] = ("notifications",), **rabbit_options: Any) -> Iterator[Listener]:
    """Run a listener on every priority of these topics. It has one thread, because several threads would mix up the order."""
    conf = configuration(url, **{"rabbit_interval_max": 1, **rabbit_options})
    transport = oslo_messaging.get_notification_transport(conf)
    endpoint = Listener()
    running = oslo_messaging.get_notification_listener(
        transport, [oslo_messaging.Target(topic=topic) for topic in topics], [endpoint], executor="threading"
    )
    conf.set_override("executor_thread_pool_size", 1)
    running.start()
    try:
        yield endpoint
    finally:
        running.stop()
        running.wait()
        transport.cleanup()
        gc.collect()
