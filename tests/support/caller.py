# SPDX-License-Identifier: Apache-2.0
"""A client of a bus in memory: it sends requests and keeps the answers."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgspec

from tests.support.builders import HOST
from tests.support.deadline import SECONDS
from tracker_worker.bus.memory import MemoryBroker
from tracker_worker.wire.message import JSON, MSGPACK, ReplyTo, decode_message


@dataclass(frozen=True)
class Refused:
    """An error as a caller receives it."""

    error: str
    kwargs: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Call:
    """A call that was sent."""

    replies: queue.SimpleQueue[Any]

    def reply(self) -> Any:
        """Wait for the reply and return its result or a Refused."""
        return self.replies.get(timeout=SECONDS)

    def replied(self) -> bool:
        return not self.replies.empty()


class Caller:
    """The clients of a worker: sends requests and collects replies."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._lock = threading.Lock()
        self._calls: dict[str, queue.SimpleQueue[Any]] = {}
        self.heartbeats: list[str] = []
        self._formats: dict[str, str] = {}
        for content_type in (JSON, MSGPACK):
            self._broker.open_replies(
                f"reply_{content_type}",
                lambda body, content_type=content_type: self._receive(body, content_type),  # type: ignore[misc]
            )

    def _receive(self, body: bytes, content_type: str) -> None:
        reply = decode_message(body, content_type)
        with self._lock:
            call = self._calls[reply["_msg_id"]]
        if not reply["ending"]:
            self.heartbeats.append(reply["_msg_id"])
            return
        failure = None if reply["failure"] is None else msgspec.json.decode(reply["failure"])
        call.put(reply["result"] if failure is None else Refused(failure["class"], failure["kwargs"]))

    def call(
        self,
        method: str,
        *,
        source: str = HOST,
        unique_id: str | None = None,
        deadline: float | None = None,
        timeout: int | None = None,
        content_type: str = JSON,
        **args: Any,
    ) -> Call:
        """Send a call. ``deadline`` is on the monotonic clock; ``timeout`` in seconds asks for heartbeats."""
        reply_to = ReplyTo(f"reply_{content_type}", uuid4().hex, content_type)
        call = Call(queue.SimpleQueue())
        with self._lock:
            self._calls[reply_to.msg_id] = call.replies
        keys = {"_msg_id": reply_to.msg_id, "_reply_q": reply_to.queue, "_timeout": timeout}
        self._send(source, method, args, unique_id, keys, content_type, deadline)
        return call

    def cast(self, method: str, *, source: str = HOST, unique_id: str | None = None, **args: Any) -> None:
        self._send(source, method, args, unique_id, {}, JSON, None)

    def _send(
        self,
        source: str,
        method: str,
        args: Mapping[str, Any],
        unique_id: str | None,
        keys: Mapping[str, Any],
        content_type: str,
        deadline: float | None,
    ) -> None:
        message = {"method": method, "args": args, "version": "1.0", "_unique_id": unique_id or uuid4().hex, **keys}
        message["_context_request_id"] = "req-1"
        if content_type == MSGPACK:
            body = msgspec.msgpack.encode(message)
        else:
            body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()
        self._broker.publish(source, body, content_type=content_type, deadline=deadline)


def drained(waiting: queue.SimpleQueue[Any]) -> list[Any]:
    """Return what waits in a queue now, and take it out."""
    found = []
    while not waiting.empty():
        found.append(waiting.get_nowait())
    return found
