# SPDX-License-Identifier: Apache-2.0
"""The declarations of each stock program, under each option that changes them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

from tests.wire import stock
from tests.wire.capture import WAIT_SECONDS, Capture

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "durable": {"amqp_durable_queues": True},
    "quorum": {"rabbit_quorum_queue": True},
    "quorum_limits": {
        "rabbit_quorum_queue": True,
        "rabbit_quorum_delivery_limit": 3,
        "rabbit_quorum_max_memory_length": 1000,
        "rabbit_quorum_max_memory_bytes": 1000000,
    },
    "transient_quorum": {"rabbit_transient_quorum_queue": True},
    "auto_delete": {"amqp_auto_delete": True},
}
_RANDOM = re.compile(r"[0-9a-f]{32}")


class _Endpoint:
    """The endpoint of a server and of a listener. Runs on their threads."""

    def __init__(self) -> None:
        self.audited = threading.Event()

    def get_node(self, context: dict[str, Any]) -> None:
        return None

    def update_available_resource(self, context: dict[str, Any]) -> None:
        self.audited.set()

    def info(self, context: object, publisher_id: str, event_type: str, payload: object, metadata: object) -> None:
        return None


def record_declares(capture: Capture, conf: Any) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield (name, options, programs) for each set of options; delete the declared objects before the next set."""
    for name, options in OPTIONS.items():
        programs: dict[str, list[dict[str, Any]]] = {}
        endpoint = _Endpoint()
        with stock.rpc_server(conf(**options), endpoint):
            programs["rpc_server"] = _declared_since(capture, 0)
            with stock.rpc_client(conf(**options)) as client:
                before = len(capture.declared)
                client.prepare(server=stock.HOST).call({}, "get_node")
                programs["rpc_client"] = _declared_since(capture, before)
                before = len(capture.declared)
                client.prepare(fanout=True).cast({}, "update_available_resource")
                if not endpoint.audited.wait(WAIT_SECONDS):
                    raise TimeoutError(f"{name}: the fanout cast did not arrive")
                programs["rpc_client_fanout"] = _declared_since(capture, before)
        before = len(capture.declared)
        with stock.notifier(conf(**options)) as notifier:
            notifier.info({}, "tracker.claim.begun", {})
            programs["notifier"] = _declared_since(capture, before)
        before = len(capture.declared)
        with stock.notification_listener(conf(**options), endpoint):
            programs["notification_listener"] = _declared_since(capture, before)
        capture.delete_declared()
        yield name, options, programs


def _declared_since(capture: Capture, start: int) -> list[dict[str, Any]]:
    """The declarations from number ``start`` on, with random names replaced so that two recordings are equal."""
    return [
        {key: _RANDOM.sub("<random>", value) if isinstance(value, str) else value for key, value in declared.items()}
        for declared in capture.declared[start:]
    ]
