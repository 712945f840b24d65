# SPDX-License-Identifier: Apache-2.0
"""The publishing connection: replies, notifications and dead letters out, confirms in.

It is a connection of its own because a broker's alarm blocks a publishing connection as a whole. Confirms are
pipelined: the next message does not wait for the confirm of the one before. After a lost connection everything
unconfirmed is sent again, in the same order.
"""

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
from tracker_worker.bus.amqp.connection import Link
from tracker_worker.bus.settings import BrokerSettings

LOG = logging.getLogger(__name__)

# Unconfirmed messages on the wire; more wait in memory.
_WINDOW = 1024
_RETRY_SECONDS = 0.5
# Confirms are read at most so often while few messages wait for theirs: nobody waits for them, and each would be a wake-up
# of its own that takes the interpreter from those who decide.
_CONFIRM_SECONDS = 0.02
FOREVER = float("inf")


class Done(Protocol):
    """Called on the publisher's thread when the message is safe in its queue, or (``routed`` False) when it has
    none."""

    def __call__(self, routed: bool) -> None: ...


@dataclass(slots=True, eq=False)
class Message:
    """One message to publish, once it is confirmed ``done``. ``properties`` as ``frames.encode_properties`` makes them.

    ``renewed`` makes the body of each further attempt out of the one before; None: it stays the same.
    ``retry_before``: on the monotonic clock, how long to try again where there is no such queue; the first such
    return is reported as ``done(False)``, later outcomes are not. None: not tried again. FOREVER: until it works, and
    those for the same queue that were submitted later wait behind it, so that they stay in order.
    ``prompt``: its confirm is read without delay.
    """

    exchange: str
    routing_key: str
    body: bytes
    properties: bytes
    done: Done | None = None
    retry_before: float | None = None
    mandatory: bool = True
    prompt: bool = False
    renewed: Callable[[bytes], bytes] | None = None
    number: int = field(default=0, init=False)
    returned: bool = field(default=False, init=False)
    attempts: int = field(default=0, init=False)


class Publisher(Link):
    """``submit`` may be called from any thread. ``confirmed`` is called after messages were ``done``, once for all that the
    broker has said at a time. While fewer than ``few`` wait for their confirm, it may be read a moment late."""

    _settings: BrokerSettings

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        few: int,
        confirmed: Callable[[], None],
        died: Callable[[BaseException], None],
    ) -> None:
        super().__init__("tracker-publisher", settings, died)
        self._few = min(few, _WINDOW // 2)
        self._prompt = 0  # of the unconfirmed ones
        self._listen_at = 0.0
        self._pass_on = confirmed
        self._waiting: deque[Message] = deque()
        self._later: list[tuple[float, int, Message]] = []
        self._held: dict[str, list[Message]] = {}  # by routing key, what waits for its queue
        self._release_at = 0.0
        self._numbers = itertools.count(1)
        self._connection: Any = None
        self._channel: Any = None
        self._next_tag = 1
        self._unconfirmed: dict[int, Message] = {}

    def submit(self, *messages: Message) -> None:
        self._waiting.extend(messages)
        self.hasten()

    def opened(self, connection: Any) -> None:
        self._connection = connection
        self._declare()
        self._channel = channel = connection.channel()
        channel.auto_decode = False  # what is returned is compared with what was sent
        channel.confirm_select()
        channel.events["basic_ack"].add(self._confirmed)
        channel.events["basic_nack"].add(self._refused)
        channel.events["basic_return"].add(self._returned)
        self._next_tag = 1
        self.wake()

    def _declare(self) -> None:
        topology.declare_shared(self._connection, topology.dead_letter_queue(self._settings))
        if self._settings.notification_topics:
            topology.declare_notifications(self._connection, self._settings)

    def work(self) -> None:
        self._pass_on()
        if self._held and self._release_at <= time.monotonic():
            self._release()
        while self._later and self._later[0][0] <= time.monotonic():
            self._waiting.append(heapq.heappop(self._later)[2])
        self.write()

    def write(self) -> None:
        while self._waiting and len(self._unconfirmed) < _WINDOW:
            message = self._waiting.popleft()
            if message.routing_key in self._held and message.retry_before == FOREVER:
                self._hold(message)
                continue
            if message.number and message.renewed is not None:
                message.body = message.renewed(message.body)
            message.number = message.number or next(self._numbers)
            self._unconfirmed[self._next_tag] = message
            self._prompt += message.prompt
            self._next_tag += 1
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

    def deaf_for(self) -> float:
        waited_for = self._prompt or len(self._unconfirmed) >= self._few
        return 0.0 if waited_for else self._listen_at - time.monotonic()

    def due_in(self) -> float:
        due = [self._later[0][0]] if self._later else []
        if self._held:
            due.append(self._release_at)
        return max(0.0, min(due) - time.monotonic()) if due else super().due_in()

    def idle(self) -> bool:
        return not self._waiting and not self._unconfirmed

    def lost(self) -> None:
        self._pass_on()
        self._channel = self._connection = None
        for message in self._unconfirmed.values():
            message.returned = False
        unsent = [*self._unconfirmed.values(), *itertools.chain.from_iterable(self._held.values())]
        self._waiting.extendleft(sorted(unsent, key=_number, reverse=True))
        self._unconfirmed.clear()
        self._prompt = 0
        self._held.clear()

    # --- what the broker says ----------------------------------------------------------------------------------------

    def _confirmed(self, tag: int, multiple: bool) -> None:
        for message in self._take(tag, multiple):
            if message.returned:
                self._unroutable(message)
            elif message.done is not None:
                message.done(True)

    def _refused(self, tag: int, multiple: bool) -> None:
        for message in self._take(tag, multiple):
            LOG.warning("the broker refused a message for %s; it is sent again", message.routing_key)
            self._again(message)

    def _returned(self, _error: Any, exchange: str, routing_key: str, returned: Any) -> None:
        # A return comes before its confirm and carries no tag. It is rare: look for the message that it is.
        body = returned.body.encode() if isinstance(returned.body, str) else bytes(returned.body)
        for message in self._unconfirmed.values():
            same_place = (message.exchange, message.routing_key) == (exchange, routing_key)
            if same_place and not message.returned and message.body == body:
                message.returned = True
                return

    def _take(self, tag: int, multiple: bool) -> list[Message]:
        self._listen_at = time.monotonic() + _CONFIRM_SECONDS
        tags = [tag]
        if multiple:
            tags = list(itertools.takewhile(lambda published: published <= tag, self._unconfirmed))
        taken = [self._unconfirmed.pop(published) for published in tags]
        self._prompt -= sum(message.prompt for message in taken)
        return taken

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
                # At once the first time: the queue is most likely there as soon as it is declared.
                self._release_at = time.monotonic() + (_RETRY_SECONDS if message.attempts > 1 else 0)
            self._hold(message)
            return
        heapq.heappush(self._later, (time.monotonic() + _RETRY_SECONDS, next(self._numbers), message))

    def _hold(self, message: Message) -> None:
        message.number = message.number or next(self._numbers)
        self._held.setdefault(message.routing_key, []).append(message)

    def _release(self) -> None:
        """Declare what lacks, and send what was held, in the order in which it was submitted."""
        if any(message.routing_key in self._held for message in self._unconfirmed.values()):
            # The broker has yet to say what becomes of some that come before.
            self._release_at = time.monotonic() + _RETRY_SECONDS
            return
        self._declare()
        held = itertools.chain.from_iterable(self._held.values())
        self._waiting.extendleft(sorted(held, key=_number, reverse=True))
        self._held.clear()


def _number(message: Message) -> int:
    return message.number
