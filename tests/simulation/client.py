# SPDX-License-Identifier: Apache-2.0
"""A client with the behaviour of a stock one, which records what it asked and what it was told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.invariants.record import ERROR, RESULT, SENT, UNKNOWN, Request
from tests.simulation.broker import APART_SECONDS, MOST_TRAVEL_SECONDS, Broker, Message
from tests.simulation.stage import Due, Stage
from tracker_worker.bus.base import SHARED
from tracker_worker.wire.message import ReplyTo, decode_message
from tracker_worker.wire.request import encode_request

CONTEXT = {"project_id": "p1", "user_id": "u1", "request_id": "req-1"}
_AGAIN_SECONDS = 0.2
Told = Callable[[Request], object]


class Client:
    """``requests``: what has ended. A call that gets no answer in time is UNKNOWN. ``waiting``: calls that have not ended."""

    def __init__(self, stage: Stage, broker: Broker, name: str, *, timeout: float = 10.0) -> None:
        self.requests: list[Request] = []
        self.waiting = 0
        self._stage = stage
        self._broker = broker
        self.name = name
        self._timeout = timeout
        self._queue = f"reply_{name}"
        self._there_at = 0.0  # when the last message arrives: they arrive in order
        self._calls: dict[str, tuple[dict[str, Any], Due, Told]] = {}
        broker.replies[self._queue] = self._receive

    def call(self, host: str | None, method: str, told: Told = lambda request: None, /, **args: Any) -> None:
        reply_to = ReplyTo(self._queue, self._id())
        asked = self._asked(host, method, args, call=True)
        late = self._stage.later(self._timeout, lambda: self._give_up(reply_to.msg_id))
        self._calls[reply_to.msg_id] = (asked, late, told)
        self.waiting += 1
        self._send(asked, reply_to)

    def cast(self, host: str | None, method: str, /, **args: Any) -> None:
        asked = self._asked(host, method, args, call=False)
        self._send(asked, None)

    def _id(self) -> str:
        return self._stage.random.randbytes(16).hex()

    def _asked(self, host: str | None, method: str, args: Mapping[str, Any], *, call: bool) -> dict[str, Any]:
        return {
            "unique_id": self._id(),
            "host": host,
            "method": method,
            "args": args,
            "call": call,
            "sent_at": self._stage.now,
            "client": self.name,
        }

    def _send(self, asked: Mapping[str, Any], reply_to: ReplyTo | None) -> None:
        body = encode_request(
            asked["method"],
            asked["args"],
            context=CONTEXT,
            unique_id=asked["unique_id"],
            reply_to=reply_to,
            version="1.1",
        )
        deadline = None if reply_to is None else self._stage.now + self._timeout
        message = Message(body=body, deadline=deadline)
        stage = self._stage
        self._there_at = max(self._there_at + APART_SECONDS, stage.now + stage.random.random() * MOST_TRAVEL_SECONDS)
        stage.later(self._there_at - stage.now, lambda: self._arrive(asked, message))

    def _arrive(self, asked: Mapping[str, Any], message: Message) -> None:
        """At the broker. What no queue takes is sent again."""
        broker, host = self._broker, asked["host"]
        if broker.blocked:
            broker.waiting.append(lambda: self._arrive(asked, message))
        elif not (broker.up and broker.publish(SHARED if host is None else host, message)):
            self._stage.later(_AGAIN_SECONDS, lambda: self._arrive(asked, message))
        elif not asked["call"]:
            self._end(asked, SENT)

    def _receive(self, body: bytes) -> None:
        reply = decode_message(body)
        found = self._calls.get(reply["_msg_id"])
        if found is None or not reply["ending"]:
            return
        asked, late, told = self._calls.pop(reply["_msg_id"])
        late.cancelled = True
        self.waiting -= 1
        if reply["failure"] is None:
            request = self._end(asked, RESULT, reply=reply["result"])
        else:
            failure = json.loads(reply["failure"])
            facts = failure.get("kwargs") or {}
            request = self._end(asked, ERROR, error=_code(failure["class"]), facts=facts)
        told(request)

    def _give_up(self, msg_id: str) -> None:
        asked, _, told = self._calls.pop(msg_id)
        self.waiting -= 1
        told(self._end(asked, UNKNOWN))

    def _end(self, asked: Mapping[str, Any], outcome: str, **more: Any) -> Request:
        request = Request(**asked, ended_at=self._stage.now, outcome=outcome, **more)
        self.requests.append(request)
        return request


def _code(name: str) -> str:
    from tracker_worker import errors

    found = getattr(errors, name, None)
    return str(getattr(found, "code", "") or name)
