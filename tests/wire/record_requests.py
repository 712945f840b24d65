# SPDX-License-Identifier: Apache-2.0
"""The requests and notifications that stock clients send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.wire import stock
from tests.wire.capture import WAIT_SECONDS, Capture
from tests.wire.golden import Golden

HOST_QUEUE = f"{stock.TOPIC}.{stock.HOST}"
FANOUT_EXCHANGE = f"{stock.TOPIC}_fanout"
BEGIN = {"instance": stock.INSTANCE, "limits": stock.LIMITS, "timeout": 600}

Conf = Callable[..., Any]


def record_requests(capture: Capture, conf: Conf) -> Iterator[Golden]:
    """Every shape of call and cast, one Golden each. ``conf(**rabbit_options)`` makes a configuration."""
    _declare_worker_topology(capture)
    recorder = _CallRecorder(capture, conf)
    yield recorder.call("call_begin_resource_claim", "a call to a host", "begin_resource_claim", BEGIN)
    yield recorder.call(
        "call_monitored",
        "a call whose client wants heartbeats: call_monitor_timeout=10",
        "begin_resource_claim",
        BEGIN,
        client={"call_monitor_timeout": 10},
    )
    yield recorder.call("call_timeout", "a call that waits 2.5 s", "get_node", {"node": None}, prepare={"timeout": 2.5})
    yield recorder.call("call_without_server", "a call on the shared topic", "list_nodes", {}, server=None)
    yield recorder.call(
        "call_namespace", "a call into a namespace", "get_node", {"node": None}, prepare={"namespace": "baseapi"}
    )
    yield recorder.call(
        "call_version_1_7", "a call that needs version 1.7", "get_node", {"node": None}, prepare={"version": "1.7"}
    )
    yield recorder.call(
        "call_without_version",
        "a call of a client whose target has no version",
        "get_node",
        {"node": None},
        client={"target": {"version": None}},
    )
    yield recorder.call("call_ping", "the liveness probe", "oslo_rpc_server_ping", {})
    # kombu knows only the name bzip2: with 'bz2', which oslo.messaging's help text offers, a client cannot send.
    for compression, name in (("gzip", "call_gzip"), ("bzip2", "call_bz2")):
        yield recorder.call(
            name,
            f"a call with kombu_compression = {compression}",
            "begin_resource_claim",
            BEGIN,
            rabbit={"kombu_compression": compression},
        )
    with stock.rpc_client(conf()) as client:
        client.prepare(server=stock.HOST).cast(stock.rpc_context(), "update_usage", instance=_updated_instance())
        yield capture.take(HOST_QUEUE, "cast_update_usage", "a cast to a host")
        client.prepare(fanout=True).cast(stock.rpc_context(), "update_available_resource")
        yield capture.take(
            f"{FANOUT_EXCHANGE}_golden", "cast_fanout_update_available_resource", "a cast to all workers"
        )


def record_notifications(capture: Capture, conf: Conf) -> Iterator[Golden]:
    """Yield the notifications of a stock Notifier, which declares the queues itself."""
    info, warn = (f"{stock.NOTIFICATION_TOPIC}.{priority}" for priority in ("info", "warn"))
    payload = {"instance_id": stock.INSTANCE["uuid"], "memory_mb": 2048, "host": stock.HOST, "sequence": 1}
    with stock.notifier(conf()) as notifier:
        notifier.info(stock.request_context(), "tracker.claim.begun", payload)
        yield capture.take(info, "notification_info", "messagingv2, INFO, the context an oslo.context object")
        notifier.warn(stock.rpc_context(), "tracker.claim.rejected", payload)
        yield capture.take(warn, "notification_warn", "messagingv2, WARN, the context a dict (and so left out)")
    with stock.notifier(conf(), driver="messaging") as notifier:
        notifier.info(stock.request_context(), "tracker.claim.begun", payload)
        yield capture.take(info, "notification_version_1", "driver messaging: a bare message, no envelope")


class _CallRecorder:
    """Makes a call with a stock client on a separate thread, and answers the call when the request has been taken."""

    def __init__(self, capture: Capture, conf: Conf) -> None:
        self._capture = capture
        self._conf = conf

    def call(
        self,
        name: str,
        shows: str,
        method: str,
        arguments: dict[str, Any],
        *,
        server: str | None = stock.HOST,
        client: dict[str, Any] | None = None,
        prepare: dict[str, Any] | None = None,
        rabbit: dict[str, Any] | None = None,
    ) -> Golden:
        """Make one call and return its request.

        ``client`` and ``prepare`` are arguments of the stock client and of its ``prepare``; ``rabbit`` holds options.
        """
        target = {"server": server} if server else {}
        with (
            stock.rpc_client(self._conf(**(rabbit or {})), **(client or {})) as stock_client,
            ThreadPoolExecutor(1) as pool,
        ):
            prepared = stock_client.prepare(**target, **(prepare or {}))
            waiting = pool.submit(prepared.call, stock.rpc_context(), method, **arguments)
            taken = self._capture.take(HOST_QUEUE if server else stock.TOPIC, name, shows)
            self._capture.answer(taken)
            waiting.result(WAIT_SECONDS)
        return taken


def _declare_worker_topology(capture: Capture) -> None:
    """Declare temporary queues with a worker's bindings: shared, per host, fanout."""
    channel = capture.channel
    channel.exchange_declare(stock.CONTROL_EXCHANGE, "topic", durable=False, auto_delete=False)
    channel.exchange_declare(FANOUT_EXCHANGE, "fanout", durable=False, auto_delete=True)
    capture.queue(stock.TOPIC, stock.CONTROL_EXCHANGE, stock.TOPIC)
    capture.queue(HOST_QUEUE, stock.CONTROL_EXCHANGE, HOST_QUEUE)
    capture.queue(f"{FANOUT_EXCHANGE}_golden", FANOUT_EXCHANGE)


def drop_worker_topology(capture: Capture) -> None:
    """Delete the queues whose names a stock server declares."""
    for queue in (stock.TOPIC, HOST_QUEUE, f"{FANOUT_EXCHANGE}_golden"):
        capture.channel.queue_delete(queue)
    capture.channel.exchange_delete(stock.CONTROL_EXCHANGE)


def _updated_instance() -> dict[str, Any]:
    return stock.INSTANCE | {"vm_state": "active", "task_state": None, "host": stock.HOST, "node": stock.HOST}
