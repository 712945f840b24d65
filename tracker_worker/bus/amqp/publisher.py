# SPDX-License-Identifier: Apache-2.0
"""The publishing connection: it publishes messages and reads their confirms.

It is separate from the consuming connection because an alarm of the broker blocks a publishing connection as a whole.
Confirms are pipelined: a message does not wait for the confirm of an earlier message. What waits for a queue that does not take
it is in ``destinations``; what the broker ends a connection for is found by ``suspects``. After a lost connection the publisher
sends every unconfirmed message again, and those for the same queue in the same order."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from amqp.exceptions import AMQPError, ChannelError

from tracker_worker.bus.amqp import frames, internals, refusals, topology
from tracker_worker.bus.amqp.addresses import Addresses
from tracker_worker.bus.amqp.confirms import Confirms
from tracker_worker.bus.amqp.connection import BrokerConnection
from tracker_worker.bus.amqp.destinations import Destinations
from tracker_worker.bus.amqp.durability import Durability
from tracker_worker.bus.amqp.outgoing import FOREVER, WINDOW, WINDOW_BYTES, Destination, Message
from tracker_worker.bus.amqp.suspects import Suspects
from tracker_worker.bus.amqp.system import SYSTEM, System
from tracker_worker.bus.settings import BrokerSettings

LOG = logging.getLogger(__name__)

# While few messages wait for their confirms, the publisher reads confirms only this often. Nothing waits for them, and each
# read would wake this thread and take the interpreter from the engine.
_CONFIRM_SECONDS = 0.02
# Written and not yet sent: each byte is there once more until the socket has taken it.
_MOST_UNSENT_BYTES = 4 * 1024 * 1024
# Unconfirmed messages whose time is over are looked for this often.
_OVERDUE_SECONDS = 1.0
# No queue has this name, so that the broker confirms a message to it immediately, after everything before it.
_MARKER = "x-tracker-marker"
_NO_PROPERTIES = internals.encode_properties({})


class Publisher(BrokerConnection):
    """``submit`` may be called from any thread. The publisher calls ``confirmed`` after it has called ``done`` for all
    messages that the broker has confirmed at a time. While fewer than ``confirm_threshold`` messages wait for their
    confirms, it may read confirms late."""

    publishes = True
    _settings: BrokerSettings

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        confirm_threshold: int,
        confirmed: Callable[[], None],
        died: Callable[[BaseException], None],
        addresses: Addresses | None = None,
        system: System = SYSTEM,
        durability: Durability | None = None,
    ) -> None:
        super().__init__("tracker-publisher", settings, died, addresses, system)
        self._confirm_threshold = min(confirm_threshold, WINDOW // 2)
        self._urgent = 0  # of the unconfirmed messages
        self._read_at = 0.0
        self._overdue_at = 0.0
        self._pass_on = confirmed
        self._waiting: deque[Message] = deque()
        self._declare_again = False
        self._numbers = itertools.count(1)
        self._declared, self._durability = settings, durability or Durability(settings)
        self._own = {queue.name for queue in topology.published(settings)}
        self._destinations = Destinations(self._own)
        self._suspects = Suspects()
        self._barred = True  # nothing is written: there is no channel, or a marker is on the wire
        self._connection: Any = None
        self._channel: Any = None
        self._failure: Exception | None = None
        self._closed_by: AMQPError | None = None  # why the broker has closed the channel
        self._unsent = 0  # bytes that were written, as ``work`` found them, and those that were written since
        self._working = False
        self.refused_messages = 0  # that the broker does not take
        self._most_bytes = FOREVER  # of a body on this connection
        self._confirms: Confirms[Message] = Confirms(
            confirmed=self._on_confirmed, refused=self._on_refused, returned=self._on_returned
        )

    def submit(self, *messages: Message) -> None:
        """Publish these messages in this order. Returns immediately."""
        if self.is_open():
            self._waiting.extend(messages)
        else:  # a message that is not tried again would be out of date
            self._waiting.extend(message for message in messages if message.retry_before is not None)
        self._turn.flush_soon()

    def repair(self) -> None:
        """Declare the queues that are published to again soon. Any thread; returns immediately."""
        self._declare_again = True
        self.wake()

    def given_up(self, message: Message, error: str, limit: int | None) -> Message | None:
        """The broker does not take this message (larger than ``limit``?). Returns what to publish instead; has the turn."""
        return None

    def waiting(self) -> int:
        """The number of messages that are not confirmed yet. Any thread."""
        return self._destinations.messages + len(self._waiting)

    def waiting_bytes(self) -> int:
        """The bytes of their bodies. Any thread."""
        return self._destinations.bytes + sum(len(message.body) for message in list(self._waiting))

    def opened(self, connection: Any) -> None:
        self._connection = connection
        self._most_bytes = FOREVER
        self._declare()
        self._open_channel(connected=True)
        self.wake()

    def _open_channel(self, *, connected: bool) -> None:
        self._channel = self._connection.channel()
        internals.take_close(self._channel, self._channel_closed)
        self._confirms.watch(self._channel)
        self._destinations.renewal.done()
        self._resume(connected=connected)

    def _declare(self) -> None:
        self._declared = settings = self._durability.settings
        topology.declare_control_exchange(self._connection, settings)
        for queue in topology.published(settings):
            topology.declare_shared(self._connection, queue)

    def _resume(self, *, connected: bool) -> None:
        now = self._monotonic()
        self._barred = False
        self._destinations.suspect(self._suspects, now)
        self._destinations.resume(now, connected=connected)

    def failed(self, error: Exception) -> bool:
        if self._durability.adapt(error, self._declared):
            return True
        self._failure = error
        return False

    def lost(self) -> None:
        failure, self._failure = self._failure, None
        self._closed_by = None
        self._channel = self._connection = None
        self._barred = True
        self._take_back(failure if refusals.connection_ended_for_a_message(failure) else None)
        self._pass_on()

    def _channel_closed(self, error: AMQPError) -> None:
        """The broker has closed the channel, and py-amqp has opened it again; in the middle of another call, perhaps."""
        self._closed_by = error
        self._barred = True

    def _use_channel_again(self, error: AMQPError) -> None:
        LOG.warning("the broker has closed a channel: %s", error)
        limit = refusals.size_limit(error)
        culprit = None if limit is None else refusals.first_larger(self._confirms.pending.values(), limit)
        if culprit is not None and limit is not None:
            self._most_bytes = limit
            self._take_back(None, culprit)
            self._give_up(culprit, str(error))
        elif refusals.channel_ended_for_a_message(error):
            self._take_back(error)
        elif refusals.channel_ended_for_a_place(error) and self._destinations.lack_an_exchange(
            self._confirms.pending.values(), str(error), self._monotonic()
        ):
            self._take_back(None)
        else:
            raise error
        self._closed_by = None
        self._confirms.select(self._channel)
        self._resume(connected=False)

    def _renew_channel(self, now: float) -> None:
        """Write nothing more, and open a new channel once the broker has answered everything."""
        self._barred = True
        if self._destinations.renewal.is_due(now, len(self._confirms.pending)):
            self._channel.close()
            self._closed_by = None
            self._take_back(None)
            self._open_channel(connected=False)

    def _take_back(self, error: Exception | None, culprit: Message | None = None) -> None:
        """Nothing is on the wire any more. ``error``: the broker's, if it was because of some message."""
        unconfirmed = self._confirms.forget()
        guilty = None
        if error is not None:
            guilty = self._suspects.ended(unconfirmed)
        else:
            self._suspects.interrupted(unconfirmed)
        if culprit is not None:
            self._suspects.forget(culprit)
        kept = {*self._suspects, *(message for message in (guilty, culprit) if message is not None)}
        self._destinations.lost(unconfirmed, kept)
        self._urgent = 0
        if guilty is not None:
            self._give_up(guilty, str(error))

    # --- writing -------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        if self._closed_by is not None:
            self._use_channel_again(self._closed_by)
        self._pass_on()
        if self._declare_again:
            self._declare_again = False
            try:
                self._declare()
            except ChannelError as error:
                LOG.error("the queues that are published to are not declared again: %s", error)
        self._unsent = self._turn.unsent()
        now = self._monotonic()
        if now >= self._overdue_at:
            self._overdue_at = now + _OVERDUE_SECONDS
            self._destinations.unclaimed.report(now)
            self._settle_overdue(now)
        if self._destinations.renewal.is_wanted(now) and self._alarm.state is None and not list(self._suspects):
            self._renew_channel(now)
        if self._alarm.state is None and now >= self._destinations.due_at():
            self.write()  # before probes: their queues most likely still do not take anything
            for destination in self._destinations.due(now):
                self._try_again(destination, now)
        self._working = True
        self.write()
        self._working = False

    def _settle_overdue(self, now: float) -> None:
        """The broker may leave a message unconfirmed for long: nothing else waits for an answer that nobody waits for."""
        for message in self._confirms.pending.values():
            if message.deadline <= now or (message.retry_before is not None and message.retry_before <= now):
                message.notify_unrouted()

    def _try_again(self, destination: Destination, now: float) -> None:
        if destination.name in self._own and destination.missing:
            try:
                topology.declare_again(self._connection, self._declared, destination.name)
            except ChannelError as error:
                LOG.warning("queue %s cannot be declared: %s", destination.name, error)
                destination.probing = True  # it has failed
                self._destinations.close(destination, now, missing=True)
                return
        self._destinations.probe(destination, now)

    def write(self) -> None:
        if self._barred or self._alarm.state is not None:
            return  # under an alarm the broker reads nothing: what is written now could only be lost with the connection
        destinations, confirms, suspects, waiting = self._destinations, self._confirms, self._suspects, self._waiting
        by_key, pending = destinations.by_key, confirms.pending
        released = suspects.unsent if suspects.group else destinations.released
        now = self._monotonic()
        before = self._unsent
        while self._unsent < _MOST_UNSENT_BYTES:
            if released:
                message = released.popleft()
                destination = message.destination
            elif waiting and not suspects.group:
                message = waiting.popleft()
                message.number = next(self._numbers)
                message.size = len(message.body)
                destinations.bytes += message.size
                destinations.messages += 1
                destination = by_key.get(message.routing_key) or destinations.add(message.routing_key)
                message.destination = destination
                if destination.closed or message.deadline <= now:
                    destinations.hold(message, now)
                    self.wake()  # what was settled is reported on the connection's thread
                    continue
                destination.out += 1
                destination.out_bytes += message.size
                if destination.out >= destination.window or destination.out_bytes >= WINDOW_BYTES:
                    destination.closed = True
            else:
                break
            try:
                if message.size > self._most_bytes:
                    raise ValueError(
                        f"the broker takes at most {self._most_bytes} bytes; the message has {message.size}"
                    )
                if message.attempts and message.renewed is not None:
                    message.body = message.renewed(message.body)
                data = frames.publish(
                    self._channel.channel_id,
                    message.exchange,
                    message.routing_key,
                    message.properties,
                    message.body,
                    mandatory=message.mandatory,
                    frame_max=self._connection.frame_max,
                    fitted=message.fitted,
                )
            except Exception as error:  # of one message
                LOG.debug("a message cannot be written", exc_info=True)
                destinations.answered(message)
                self._give_up(message, str(error))
                continue
            message.attempts += 1
            confirms.published += 1
            pending[confirms.published] = message
            self._urgent += message.urgent
            self._unsent += len(data)
            self._connection.transport.write(data)
        else:
            if self._unsent > before or not self._working:
                self.wake()  # otherwise there is work as soon as the socket takes more
        if (suspects.group or suspects.groups) and not self._barred:
            self._write_marker()

    def _write_marker(self) -> None:
        self._barred = True
        marker = Message("", _MARKER, b"", _NO_PROPERTIES, self._cleared, mandatory=False, urgent=True)
        marker.destination = self._destinations.add(_MARKER)
        marker.destination.out += 1
        self._confirms.add(marker)
        self._urgent += 1
        number, frame_max = self._channel.channel_id, self._connection.frame_max
        data = frames.publish(number, "", _MARKER, _NO_PROPERTIES, b"", mandatory=False, frame_max=frame_max)
        self._connection.transport.write(data)

    def _cleared(self, routed: bool) -> None:
        """The broker has read everything up to the marker."""
        self._barred = self._closed_by is not None
        now = self._monotonic()
        if self._suspects.group:
            self._suspects.clear()
            self._destinations.suspect(self._suspects, now)
            if self._waiting or self._destinations.released:
                return  # a round of the others
        for message in self._suspects.next_group():
            self._destinations.count(message)

    def _give_up(self, message: Message, error: str) -> None:
        """The message, which is not on the wire any more, is never sent again."""
        self.refused_messages += 1
        LOG.warning(
            "the broker does not take a message of %d bytes for %r: %s", message.size, message.routing_key[:255], error
        )
        limit = None if self._most_bytes == FOREVER else int(self._most_bytes)
        instead = self.given_up(message, error, limit)
        self._destinations.given_up(message, self._monotonic())
        if instead is not None:
            self._waiting.appendleft(instead)
        self.wake()

    def read_pause(self) -> float:
        if self._urgent or len(self._confirms.pending) >= self._confirm_threshold:
            return 0.0
        return self._read_at - self._monotonic()

    def due_in(self) -> float:
        due = FOREVER if self._alarm.state is not None else self._destinations.due_at()
        return super().due_in() if due == FOREVER else max(0.0, due - self._monotonic())

    def idle(self) -> bool:
        return not (self._waiting or self._confirms.pending or list(self._suspects) or self._destinations.waits())

    # --- what the broker answers -------------------------------------------------------------------------------------

    def _on_confirmed(self, messages: list[Message]) -> None:
        now = self._answered(messages)
        destinations = self._destinations
        for message in messages:
            destination = message.destination
            destination.out -= 1
            destination.out_bytes -= message.size
            if message.returned:
                message.returned = False
                destinations.refused(message, now, missing=True)
                continue
            destinations.leave(message)
            if message.done is not None:
                message.done(True)
            if destination.closed:
                destinations.confirmed(destination, now)

    def _on_refused(self, messages: list[Message]) -> None:
        now = self._answered(messages)
        for message in messages:
            message.returned = False
            self._destinations.answered(message)
            self._destinations.refused(message, now, missing=False)

    def _answered(self, messages: list[Message]) -> float:
        now = self._monotonic()
        self._read_at = now + _CONFIRM_SECONDS
        self._urgent -= sum(message.urgent for message in messages)
        return now

    def _on_returned(self, exchange: str, routing_key: str, body: bytes) -> None:
        # A return comes before its confirm and carries no delivery tag, so that the message has to be searched. It is rare.
        for message in self._confirms.pending.values():
            same_place = (message.exchange, message.routing_key) == (exchange, routing_key)
            if same_place and not message.returned and message.body == body:
                message.returned = True
                return
