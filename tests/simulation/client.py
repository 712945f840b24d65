# SPDX-License-Identifier: Apache-2.0
"""A client with the behaviour of a stock one, which records what it asked and what it was told.

Most messages travel for milliseconds. Some are sent once more with the same ``_unique_id``, as after a lost confirm, and some
are on their way for minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.invariants.messages import COMMANDS
from tests.invariants.record import ERROR, RESULT, SENT, UNKNOWN, Request
from tests.simulation.answers import Answers
from tests.simulation.broker import APART_SECONDS, MOST_TRAVEL_SECONDS, Broker, Message
from tests.simulation.stage import Due, Stage
from tracker_worker import errors
from tracker_worker.bus.base import SHARED
from tracker_worker.wire.message import ReplyTo, decode_message
from tracker_worker.wire.request import encode_request
from tracker_worker.wire.versions import needed

CONTEXT = {"project_id": "p1", "user_id": "u1", "request_id": "req-1"}
_MONITORED = 0.1
"""The part of the calls whose callers want heartbeats."""
Told = Callable[[Request], object]
Until = Callable[[float, Callable[[], object]], object]

_AGAIN_SECONDS = 0.2
"""A message that no queue takes, or that meets no broker, is sent again after this time."""
_OLD_SECONDS = 150.0
"""The longest time that a message is on its way."""


@dataclass(slots=True, eq=False)
class _Sent:
    """``under_way``: its first copy has not reached the broker. ``late`` is None for a cast, and once a call has ended."""

    asked: Mapping[str, Any]
    body: bytes
    told: Told
    late: Due | None = None
    under_way: bool = True

    @property
    def is_command(self) -> bool:
        return self.asked["method"] in COMMANDS


class Client:
    """``requests``: what has ended. A call that gets no answer in time is UNKNOWN. ``waiting``: calls that have not ended.

    ``copied`` and ``old``: the parts of the messages that are sent once more, and that are on their way for a long time.
    """

    def __init__(
        self, stage: Stage, broker: Broker, name: str, *, timeout: float = 10.0, until: Until, answers: Answers
    ) -> None:
        """``answers`` judges what is told. ``until(seconds, action)`` has an action happen after so many seconds, or earlier
        when everything is to end."""
        self.requests: list[Request] = []
        self.waiting = 0
        self.copied = 0.0
        self.old = 0.0
        self._stage = stage
        self._broker = broker
        self._answers = answers
        self.name = name
        self._timeout = timeout
        self._until = until
        self._queue = f"reply_{name}"
        self._there_at = 0.0  # when the last message arrives: they arrive in order
        self._calls: dict[str, _Sent] = {}
        broker.replies[self._queue] = self._receive

    def call(self, host: str | None, method: str, told: Told = lambda request: None, /, **args: Any) -> None:
        """``told`` gets the answer, or the request with the outcome UNKNOWN."""
        reply_to = ReplyTo(self._queue, self._id())
        sent = self._sent(host, method, args, told, reply_to)
        sent.late = self._stage.later(self._timeout, lambda: self._give_up(sent))
        self._calls[reply_to.msg_id] = sent
        self.waiting += 1
        self._send(sent)

    def cast(self, host: str | None, method: str, told: Told = lambda request: None, /, **args: Any) -> None:
        """``told`` is called when the broker has the message."""
        self._send(self._sent(host, method, args, told, None))

    def _id(self) -> str:
        return self._stage.random.randbytes(16).hex()

    def _sent(
        self, host: str | None, method: str, args: Mapping[str, Any], told: Told, reply_to: ReplyTo | None
    ) -> _Sent:
        unique_id = self._id()
        body = encode_request(
            method, args, context=CONTEXT, unique_id=unique_id, reply_to=reply_to, version=needed(method, args)
        )
        if reply_to is not None and self._stage.random.random() < _MONITORED:
            body = body.replace(b'\\"_timeout\\":null', b'\\"_timeout\\":2')
        asked = {
            "unique_id": unique_id,
            "host": host,
            "method": method,
            "args": args,
            "call": reply_to is not None,
            "sent_at": self._stage.now,
            "client": self.name,
        }
        return _Sent(asked, body, told)

    # --- the way to the broker -----------------------------------------------------------------------------------------

    def _send(self, sent: _Sent) -> None:
        stage = self._stage
        if self.old and stage.random.random() < self.old:
            self._until(stage.random.random() ** 2 * _OLD_SECONDS, lambda: self._arrive(sent))
        else:
            travel = stage.random.random() * MOST_TRAVEL_SECONDS
            self._there_at = max(self._there_at + APART_SECONDS, stage.now + travel)
            stage.later(self._there_at - stage.now, lambda: self._arrive(sent))

    def _arrive(self, sent: _Sent) -> None:
        """At the broker."""
        broker, stage = self._broker, self._stage
        if broker.blocked:
            broker.waiting.append(lambda: self._arrive(sent))
            return
        host = sent.asked["host"]
        deadline = stage.now + self._timeout if sent.asked["call"] else None
        known = sent.asked["unique_id"] if deadline is not None or sent.is_command else ""
        message = Message(body=sent.body, deadline=deadline, message_id=known)
        taken = broker.up and broker.publish(SHARED if host is None else host, message)
        if not taken:
            stage.later(_AGAIN_SECONDS, lambda: self._arrive(sent))
            return
        if self.copied and sent.is_command and stage.random.random() < self.copied:
            self._until(stage.random.random() ** 4 * _OLD_SECONDS, lambda: self._arrive(sent))
        first, sent.under_way = sent.under_way, False
        if not sent.asked["call"]:
            request = self._end(sent, SENT)
            if first:
                sent.told(request)
        elif not first or sent.late is None:
            self._end(sent, UNKNOWN)

    # --- the end -------------------------------------------------------------------------------------------------------

    def _receive(self, body: bytes) -> None:
        reply = decode_message(body)
        sent = self._calls.get(reply["_msg_id"])
        if sent is None or not reply["ending"]:
            return
        self._answers.told(sent.asked, reply, waits=sent.late is not None)
        if sent.late is None and not sent.is_command:
            return  # what a copy reads may be new
        if reply["failure"] is None:
            request = self._end(sent, RESULT, reply=reply["result"])
        else:
            failure = json.loads(reply["failure"])
            facts = failure.get("kwargs") or {}
            request = self._end(sent, ERROR, error=code_of(failure["class"]), facts=facts)
        if sent.late is not None:
            sent.late.cancelled = True
            self._tell(sent, request)

    def _give_up(self, sent: _Sent) -> None:
        self._answers.given_up(sent.asked)
        request = self._request(sent, UNKNOWN)
        if not sent.under_way:
            self.requests.append(request)
        self._tell(sent, request)

    def _tell(self, sent: _Sent, request: Request) -> None:
        sent.late = None
        self.waiting -= 1
        sent.told(request)

    def _end(self, sent: _Sent, outcome: str, **more: Any) -> Request:
        request = self._request(sent, outcome, **more)
        self.requests.append(request)
        return request

    def _request(self, sent: _Sent, outcome: str, **more: Any) -> Request:
        return Request(**sent.asked, ended_at=self._stage.now, outcome=outcome, **more)


def code_of(name: str) -> str:
    """The code of an error by the name of its class; of another error, the name."""
    return str(getattr(getattr(errors, name, None), "code", "") or name)
