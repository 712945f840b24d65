# SPDX-License-Identifier: Apache-2.0
"""A client that sends every message more than once, byte by byte equal, like a client that has lost a confirm."""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import amqp
import kombu

from tests.invariants.collect import Log
from tests.invariants.listening import LOST
from tests.invariants.record import ERROR, RESULT, SENT, UNKNOWN, Place, Request
from tests.support.builders import instance_dict
from tests.support.raw import EXCHANGE, JSON, packed, unpacked
from tests.support.stock import TOPIC

_REPLY_SECONDS = 15
# The codes by class name, because a client without this package sees only the names.
_CODES = {"ComputeResourcesUnavailable": "insufficient_resources", "StoreUnavailable": "store_unavailable"}


class Duplicator:
    """Claims, updates and deletes instances of its own, one after the other. Not thread-safe."""

    def __init__(self, amqp_url: str, log: Log, *, name: str, seed: int, places: Sequence[Place]) -> None:
        self._url = amqp_url
        self._log = log
        self._name = name
        self._random = random.Random(f"{seed}-{name}")
        self._places = places
        self._numbers = 0

    def run(self, stopped: Callable[[], bool], pause: Callable[[], None]) -> None:
        """Work until ``stopped`` returns True; reconnect after a lost connection."""
        while not stopped():
            with contextlib.suppress(*LOST, TimeoutError), self._connected() as line:
                while not stopped():
                    self._life(line, pause)
            pause()

    def _life(self, line: _Line, pause: Callable[[], None]) -> None:
        self._numbers += 1
        host, node = self._random.choice(self._places)
        name = f"{self._name}-{self._numbers}"
        self._send(line, host, "begin_resource_claim", {"instance": instance_dict(uuid=name, node=node)}, call=True)
        for fields in (
            {"display_name": f"{name}-renamed", "memory_mb": 1024},
            {"vm_state": "active", "task_state": None},
            {"vm_state": "deleted"},
        ):
            pause()
            call = self._random.random() < 0.3
            self._send(line, host, "update_usage", {"instance": {"uuid": name, "node": node, **fields}}, call=call)

    def _send(self, line: _Line, host: str, method: str, args: Mapping[str, Any], *, call: bool) -> None:
        """Send all copies and record each, including copies that were in flight when the connection was lost."""
        message = {"method": method, "args": args, "version": "1.0", "_unique_id": uuid.uuid4().hex}
        if call:
            message |= {"_msg_id": uuid.uuid4().hex, "_reply_q": line.reply_queue, "_timeout": None}
        copies = self._random.randint(2, 3)
        common = {
            "unique_id": message["_unique_id"],
            "host": host,
            "method": method,
            "args": args,
            "call": call,
            "sent_at": time.monotonic(),
            "client": self._name,
        }
        told: list[dict[str, Any]] = []
        try:
            line.publish(f"{TOPIC}.{host}", packed(message), copies)
            if call:
                told += line.replies(message["_msg_id"], copies)
            else:
                told += [{"outcome": SENT}] * copies
        finally:
            told += [{"outcome": UNKNOWN}] * (copies - len(told))
            for outcome in told:
                self._log.add(Request(**{**common, "ended_at": time.monotonic(), **outcome}))

    @contextmanager
    def _connected(self) -> Iterator[_Line]:
        options = {"confirm_publish": True}
        with kombu.Connection(self._url, connect_timeout=5, heartbeat=10, transport_options=options) as connection:
            yield _Line(connection)


class _Line:
    """One connection and its reply queue."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel = connection.default_channel
        self._replies: dict[str, list[dict[str, Any]]] = {}
        self.reply_queue = self._channel.queue_declare(f"reply_{uuid.uuid4().hex}", exclusive=True).queue
        self._channel.basic_consume(self.reply_queue, no_ack=True, callback=self._replied)

    def publish(self, key: str, body: bytes, copies: int) -> None:
        """Publish ``copies`` copies. Returns when the broker has confirmed all of them.

        Raises amqp.ChannelError, after which the connection must not be used: the broker has no queue for them.
        """
        for _ in range(copies):
            self._channel.basic_publish(
                amqp.Message(body, **JSON), exchange=EXCHANGE, routing_key=key, mandatory=True, timeout=20
            )

    def replies(self, msg_id: str, count: int) -> list[dict[str, Any]]:
        """The outcomes of the first ``count`` replies, or of the replies that arrive in time."""
        deadline = time.monotonic() + _REPLY_SECONDS
        while len(self._replies.get(msg_id, ())) < count and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                self._connection.drain_events(timeout=1)
            self._connection.heartbeat_check()
        return self._replies.pop(msg_id, [])[:count]

    def _replied(self, message: Any) -> None:
        reply = unpacked(message.body)
        self._replies.setdefault(reply["_msg_id"], []).append(_outcome(reply))


def _outcome(reply: Mapping[str, Any]) -> dict[str, Any]:
    if not reply["failure"]:
        return {"outcome": RESULT, "reply": reply["result"]}
    failure = json.loads(reply["failure"])
    kind = failure["class"]
    return {"outcome": ERROR, "error": _CODES.get(kind, kind), "facts": failure["kwargs"]}
