# SPDX-License-Identifier: Apache-2.0
"""The publishing connection: it publishes messages and reads their confirms.

It is separate from the consuming connection because an alarm of the broker blocks a publishing connection as a whole.
Confirms are pipelined: a message does not wait for the confirm of an earlier message. After a lost connection the publisher
sends every unconfirmed message again, in the same order."""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tracker_worker.bus.amqp import frames, topology
from tracker_worker.bus.amqp.confirms import Confirms
from tracker_worker.bus.amqp.connection import BrokerConnection
from tracker_worker.bus.settings import BrokerSettings

LOG = logging.getLogger(__name__)

# Unconfirmed messages on the wire; further ones wait in memory.
_WINDOW = 1024
_RETRY_SECONDS = 0.5
# While few messages wait for their confirms, the publisher reads confirms only this often. Nothing waits for them, and each
# read would wake this thread and take the interpreter from the engine.
_CONFIRM_SECONDS = 0.02
FOREVER = float("inf")


class Done(Protocol):
    """Called on the publisher's thread when the broker has confirmed the message, or (``routed`` False) when no queue takes
    it."""

    def __call__(self, routed: bool) -> None: ...


@dataclass(slots=True, eq=False)
class Message:
    """One message to publish. ``properties`` are a result of ``internals.encode_properties``.

    ``renewed`` makes the body of the next attempt from the body of the last one; None: the body stays the same.
    ``retry_before`` (monotonic clock, seconds) says how long the publisher tries a message again that no queue takes. It
    reports the first return as ``done(False)``, and no later result. None: it does not try again. FOREVER: it tries until a
    queue takes the message, and later messages for the same queue wait until then, so that they stay in order. ``urgent``: the
    publisher reads the confirm without delay."""

    exchange: str
    routing_key: str
    body: bytes
    properties: bytes
    done: Done | None = None
    retry_before: float | None = None
    mandatory: bool = True
    urgent: bool = False
    renewed: Callable[[bytes], bytes] | None = None
    number: int = field(default=0, init=False)
    returned: bool = field(default=False, init=False)
    attempts: int = field(default=0, init=False)


class Publisher(BrokerConnection):
    """``submit`` may be called from any thread. The publisher calls ``confirmed`` after it has called ``done`` for all
    messages that the broker has confirmed at a time. While fewer than ``confirm_threshold`` messages wait for their
    confirms, it may read confirms late."""

    _settings: BrokerSettings

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        confirm_threshold: int,
        confirmed: Callable[[], None],
        died: Callable[[BaseException], None],
    ) -> None:
        super().__init__("tracker-publisher", settings, died)
        self._confirm_threshold = min(confirm_threshold, _WINDOW // 2)
        self._urgent = 0  # of the unconfirmed messages
        self._read_at = 0.0
        self._pass_on = confirmed
        self._waiting: deque[Message] = deque()
        self._later: list[tuple[float, int, Message]] = []
        self._held: dict[str, list[Message]] = {}  # by routing key, the messages that wait for their queue
        self._release_at = 0.0
        self._declare_again = False
        self._numbers = itertools.count(1)
        self._connection: Any = None
        self._channel: Any = None
        self._confirms: Confirms[Message] = Confirms(
            confirmed=self._on_confirmed, refused=self._on_refused, returned=self._on_returned
        )

    def submit(self, *messages: Message) -> None:
        """Publish these messages in this order. Returns immediately."""
        self._waiting.extend(messages)
        self._turn.flush_soon()

    def repair(self) -> None:
        """Declare the queues that are published to again soon. Any thread; returns immediately."""
        self._declare_again = True
        self.wake()

    def opened(self, connection: Any) -> None:
        self._connection = connection
        self._declare()
        self._channel = connection.channel()
        self._confirms.watch(self._channel)
        self.wake()

    def _declare(self) -> None:
        self._declare_again = False
        topology.declare_control_exchange(self._connection, self._settings)
        topology.declare_shared(self._connection, topology.dead_letter_queue(self._settings))
        if self._settings.notification_topics:
            topology.declare_notifications(self._connection, self._settings)

    def work(self) -> None:
        self._pass_on()
        if self._declare_again:
            self._declare()
        if self._held and self._release_at <= time.monotonic():
            self._release()
        while self._later and self._later[0][0] <= time.monotonic():
            self._waiting.append(heapq.heappop(self._later)[2])
        self.write()

    def write(self) -> None:
        waiting, pending = self._waiting, self._confirms.pending
        while waiting and len(pending) < _WINDOW:
            message = waiting.popleft()
            if message.routing_key in self._held and message.retry_before == FOREVER:
                self._hold(message)
                continue
            if message.number and message.renewed is not None:
                message.body = message.renewed(message.body)
            message.number = message.number or next(self._numbers)
            self._confirms.published += 1
            pending[self._confirms.published] = message
            self._urgent += message.urgent
            self._connection.transport.write(
                frames.publish(
                    self._channel.channel_id,
                    message.exchange,
                    message.routing_key,
                    message.properties,
                    message.body,
                    mandatory=message.mandatory,
                    frame_max=self._connection.frame_max,
                )
            )

    def read_pause(self) -> float:
        if self._urgent or len(self._confirms.pending) >= self._confirm_threshold:
            return 0.0
        return self._read_at - time.monotonic()

    def due_in(self) -> float:
        due = [self._later[0][0]] if self._later else []
        if self._held:
            due.append(self._release_at)
        return max(0.0, min(due) - time.monotonic()) if due else super().due_in()

    def idle(self) -> bool:
        return not self._waiting and not self._confirms.pending

    def lost(self) -> None:
        self._pass_on()
        self._channel = self._connection = None
        unconfirmed = self._confirms.forget()
        for message in unconfirmed:
            message.returned = False
        unsent = [*unconfirmed, *itertools.chain.from_iterable(self._held.values())]
        self._waiting.extendleft(sorted(unsent, key=_number, reverse=True))
        self._urgent = 0
        self._held.clear()

    # --- what the broker answers -------------------------------------------------------------------------------------

    def _on_confirmed(self, messages: list[Message]) -> None:
        self._answered(messages)
        for message in messages:
            if message.returned:
                self._unroutable(message)
            elif message.done is not None:
                message.done(True)

    def _on_refused(self, messages: list[Message]) -> None:
        self._answered(messages)
        for message in messages:
            LOG.warning("the broker refused a message for %s; it is sent again", message.routing_key)
            self._again(message)

    def _answered(self, messages: list[Message]) -> None:
        self._read_at = time.monotonic() + _CONFIRM_SECONDS
        self._urgent -= sum(message.urgent for message in messages)

    def _on_returned(self, exchange: str, routing_key: str, body: bytes) -> None:
        # A return comes before its confirm and carries no delivery tag, so that the message has to be searched. It is rare.
        for message in self._confirms.pending.values():
            same_place = (message.exchange, message.routing_key) == (exchange, routing_key)
            if same_place and not message.returned and message.body == body:
                message.returned = True
                return

    def _unroutable(self, message: Message) -> None:
        message.returned = False
        if message.retry_before is None:
            if message.done is not None:
                message.done(False)
            return
        if message.attempts == 0:
            LOG.warning("no queue for %s; trying again", message.routing_key)
        if message.retry_before != FOREVER and message.done is not None:
            done, message.done = message.done, None
            done(False)
        if time.monotonic() < message.retry_before:
            self._again(message)
        else:
            LOG.warning("no queue for %s, given up after %d attempts", message.routing_key, message.attempts + 1)

    def _again(self, message: Message) -> None:
        message.attempts += 1
        message.returned = False
        if message.retry_before == FOREVER:
            if not self._held:
                # The first time immediately: the queue most likely exists as soon as it is declared.
                self._release_at = time.monotonic() + (_RETRY_SECONDS if message.attempts > 1 else 0)
            self._hold(message)
            return
        heapq.heappush(self._later, (time.monotonic() + _RETRY_SECONDS, next(self._numbers), message))

    def _hold(self, message: Message) -> None:
        message.number = message.number or next(self._numbers)
        self._held.setdefault(message.routing_key, []).append(message)

    def _release(self) -> None:
        """Declare the queues again, and send the held messages in the order in which they were submitted."""
        if any(message.routing_key in self._held for message in self._confirms.pending.values()):
            # The broker has not yet answered for earlier messages to the same queue.
            self._release_at = time.monotonic() + _RETRY_SECONDS
            return
        self._declare()
        held = itertools.chain.from_iterable(self._held.values())
        self._waiting.extendleft(sorted(held, key=_number, reverse=True))
        self._held.clear()


def _number(message: Message) -> int:
    return message.number
