# SPDX-License-Identifier: Apache-2.0
"""Many callers over one connection: calls under way at the same time, and how long each took."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import amqp
import kombu

from tests.support import raw
from tests.support.builders import instance_dict, sized

SHARED_TOPIC = "tracker"
FANOUT_EXCHANGE = "tracker_fanout"


@dataclass(slots=True, eq=False)
class Called:
    """One call. ``seconds`` is how long it took, or None without an answer; ``failure`` is the class of its error."""

    host: str | None
    method: str
    began_at: float
    seconds: float | None = None
    result: Any = None
    failure: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


class Callers:
    """One connection with a reply queue. Not thread-safe; ``wait`` reads what has arrived."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._channel.auto_decode = False
        self._replies = f"reply_{uuid.uuid4().hex}"
        self._channel.queue_declare(self._replies, exclusive=True)
        self._channel.basic_consume(self._replies, no_ack=True, callback=self._replied)
        self._waiting: dict[str, tuple[Called, Callable[[Called], None]]] = {}

    @property
    def under_way(self) -> list[Called]:
        """The calls without an answer so far."""
        return [called for called, _ in self._waiting.values()]

    def call(
        self,
        host: str | None,
        method: str,
        arguments: Mapping[str, Any],
        done: Callable[[Called], None] = lambda called: None,
        *,
        seconds: float = 60,
    ) -> Called:
        """Send a call to the host's topic, or (None) to the shared one; ``done`` gets it when it is answered. It expires after
        ``seconds``."""
        msg_id = uuid.uuid4().hex
        called = Called(host, method, time.monotonic())
        self._waiting[msg_id] = called, done
        keys = {"_msg_id": msg_id, "_reply_q": self._replies, "_timeout": None}
        key = SHARED_TOPIC if host is None else f"{SHARED_TOPIC}.{host}"
        self._publish(raw.EXCHANGE, key, method, arguments, keys, expiration=str(round(seconds * 1000)))
        return called

    def cast(self, host: str | None, method: str, arguments: Mapping[str, Any]) -> None:
        self._publish(raw.EXCHANGE, SHARED_TOPIC if host is None else f"{SHARED_TOPIC}.{host}", method, arguments, {})

    def fanout(self, method: str, arguments: Mapping[str, Any]) -> None:
        """Send a cast to every worker."""
        self._publish(FANOUT_EXCHANGE, "", method, arguments, {})

    def _publish(
        self,
        exchange: str,
        key: str,
        method: str,
        arguments: Mapping[str, Any],
        keys: Mapping[str, Any],
        **properties: Any,
    ) -> None:
        message = {"method": method, "args": arguments, "version": "1.0", "_unique_id": uuid.uuid4().hex, **keys}
        self._channel.basic_publish(
            amqp.Message(raw.packed(message), **{**raw.JSON, **properties}), exchange=exchange, routing_key=key
        )

    def _replied(self, message: Any) -> None:
        reply = raw.unpacked(message.body)
        if not reply["ending"] or reply["_msg_id"] not in self._waiting:
            return
        called, done = self._waiting.pop(reply["_msg_id"])
        called.seconds = time.monotonic() - called.began_at
        called.result = reply["result"]
        if reply["failure"] is not None:
            failure = json.loads(reply["failure"])
            called.failure, called.kwargs = failure["class"], failure["kwargs"]
        done(called)

    def wait(self, seconds: float) -> None:
        """Handle the answers that arrive within ``seconds``; return after the first of them."""
        try:
            self._connection.drain_events(timeout=seconds)
            while True:  # what has arrived beside it
                self._connection.drain_events(timeout=0.0001)
        except TimeoutError:
            return

    def answer(self, host: str | None, method: str, seconds: float = 30, **arguments: Any) -> Called:
        """Call, and wait for the answer for ``seconds``."""
        called = self.call(host, method, arguments, seconds=seconds)
        while called.seconds is None and time.monotonic() < called.began_at + seconds:
            self.wait(0.05)
        return called

    def fill(self, host: str, node: str, instances: int) -> None:
        """Put so many instances on a node, and wait until the host has decided them."""
        for number in range(instances):
            self.cast(host, "begin_resource_claim", {"instance": small(f"filled-{node}-{number}", node)})
            if number % 500 == 499:
                assert self.answer(host, "get_node", 60, node=node).failure is None
        called = self.answer(host, "get_node", 60, node=node)
        assert called.result["running_vms"] >= instances


def small(identity: str, node: str) -> dict[str, Any]:
    """An instance of which many fit on a node."""
    return instance_dict(uuid=identity, node=node, **sized(vcpus=1, memory_mb=64, disk_gb=1))


@contextmanager
def connected(transport_url: str) -> Iterator[Callers]:
    """Connect to the broker of an oslo.messaging transport URL."""
    with kombu.Connection(transport_url.replace("rabbit://", "amqp://", 1), connect_timeout=5) as connection:
        yield Callers(connection)


class Pressure:
    """Keeps ``in_flight`` calls for a host under way, on a thread of its own, from ``start`` to ``stop``: each begins a claim,
    and ends it before it begins the next one. ``answered`` counts the calls, ``failures`` holds the errors."""

    def __init__(self, transport_url: str, host: str, node: str, *, in_flight: int = 8) -> None:
        self._url = transport_url
        self._host = host
        self._node = node
        self._in_flight = in_flight
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pressure-{host}", daemon=True)
        self.answered = 0
        self.failures: list[str] = []
        self.error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(30)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with connected(self._url) as callers:
                for _ in range(self._in_flight):
                    self._begin(callers)
                while not self._stopping.is_set():
                    callers.wait(0.1)
        except Exception as error:  # noqa: BLE001 raised again by ``stop``
            self.error = error

    def _begin(self, callers: Callers) -> None:
        identity = str(uuid.uuid4())

        def end(called: Called) -> None:
            self._count(called)
            arguments = {"claim_id": identity}
            callers.call(self._host, "abort_resource_claim", arguments, lambda called: self._again(callers, called))

        callers.call(self._host, "begin_resource_claim", {"instance": small(identity, self._node)}, end)

    def _again(self, callers: Callers, called: Called) -> None:
        self._count(called)
        if not self._stopping.is_set():
            self._begin(callers)

    def _count(self, called: Called) -> None:
        self.answered += 1
        if called.failure is not None:
            self.failures.append(called.failure)


@contextmanager
def pressure(transport_url: str, host: str, node: str, *, in_flight: int = 8) -> Iterator[Pressure]:
    """Put a host under load while the body runs."""
    load = Pressure(transport_url, host, node, in_flight=in_flight)
    load.start()
    try:
        yield load
    finally:
        load.stop()
