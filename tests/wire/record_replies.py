# SPDX-License-Identifier: Apache-2.0
"""The replies that a stock RPC server publishes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import oslo_messaging

from tests.wire import stock
from tests.wire.capture import WAIT_SECONDS, Capture
from tests.wire.golden import Golden
from tracker_worker.errors import ComputeResourcesUnavailable

REPLY_QUEUE = "reply_6f1c0a3e5b7d4f2a8c9e1b3d5f7a9c0e"
SHORTFALLS = [{"resource": "MEMORY_MB", "requested": 2048, "used": 3584, "limit": 4096}]


class Endpoint:
    """The methods of a stock server, one per kind of reply. Runs on the server's threads."""

    target = oslo_messaging.Target(version="1.0")

    def __init__(self) -> None:
        self.may_finish = threading.Event()

    def result(self, context: dict[str, Any]) -> dict[str, Any]:
        return {"claim_id": stock.INSTANCE["uuid"], "resources": {"VCPU": 2}, "host": stock.HOST, "name": "wëb-1"}

    def nothing(self, context: dict[str, Any]) -> None:
        return None

    @oslo_messaging.expected_exceptions(ComputeResourcesUnavailable)
    def refuse(self, context: dict[str, Any]) -> None:
        raise ComputeResourcesUnavailable(shortfalls=SHORTFALLS)

    def fail(self, context: dict[str, Any]) -> None:
        raise ValueError("no such thing", 42)

    def wait(self, context: dict[str, Any]) -> str:
        self.may_finish.wait(WAIT_SECONDS)
        return "done"


def record_replies(capture: Capture, conf: Any) -> Iterator[Golden]:
    """Every shape of reply, one Golden each. ``conf(**rabbit_options)`` makes a configuration."""
    endpoint = Endpoint()
    capture.queue(REPLY_QUEUE)
    with stock.rpc_server(conf(), endpoint):
        for name, shows, method, changes in (
            ("reply_result", "a result", "result", {}),
            ("reply_none", "no result", "nothing", {}),
            ("reply_ping", "the answer to the liveness probe", "oslo_rpc_server_ping", {}),
            ("reply_expected_error", "an expected error, with facts in its kwargs", "refuse", {}),
            ("reply_value_error", "an unexpected built-in exception", "fail", {}),
            ("reply_no_such_method", "an unknown method", "unknown", {}),
            ("reply_private_method", "a method whose name begins with _", "__init__", {}),
            ("reply_unsupported_version", "a minor version above the server's", "result", {"version": "1.7"}),
            ("reply_unsupported_namespace", "a namespace the server has not", "result", {"namespace": "baseapi"}),
        ):
            _request(capture, name, method, changes)
            yield capture.take(REPLY_QUEUE, name, shows)
        _request(capture, "reply_heartbeat", "wait", {"_timeout": 2})
        yield capture.take(REPLY_QUEUE, "reply_heartbeat", "a heartbeat of a monitored call, after half its _timeout")
        endpoint.may_finish.set()
        yield capture.take(REPLY_QUEUE, "reply_monitored", "the result that ends a monitored call")
    capture.channel.queue_delete(REPLY_QUEUE)


def _request(capture: Capture, name: str, method: str, changes: dict[str, Any]) -> None:
    request: dict[str, Any] = {
        "method": method,
        "args": {},
        "version": "1.0",
        "_msg_id": f"{name:_<32}",
        "_reply_q": REPLY_QUEUE,
        "_timeout": None,
        "_unique_id": f"unique_{name}",
    }
    capture.send(stock.CONTROL_EXCHANGE, f"{stock.TOPIC}.{stock.HOST}", request | changes)
