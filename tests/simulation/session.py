# SPDX-License-Identifier: Apache-2.0
"""The broker's side of one connection: AMQP 0-9-1 as RabbitMQ speaks it, from bytes to bytes, as far as a worker needs it."""

from __future__ import annotations

from typing import Any, Protocol

from amqp.serialization import loads

from tests.simulation import wire
from tests.simulation.broker import Broker
from tests.simulation.channel import ChannelProblem, ServerChannel
from tests.simulation.machine import Machine
from tests.simulation.methods import METHODS
from tests.simulation.queues import Consumer, Queue, Stored

_CHECK_SECONDS = 7.0
_SILENCE_SECONDS = 30.0
_CAPABILITIES = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}
_PROTOCOL_HEADER_BYTES = 8
_PUBLISHES = (wire.HEADER, wire.BODY)


class Line(Protocol):
    """What a session writes to."""

    def send(self, data: bytes) -> None: ...

    def goodbye(self) -> None: ...

    def reset(self) -> None: ...


class Session:
    """One connection as the broker knows it. ``open``: until the broker notices that it is gone."""

    def __init__(self, broker: Broker, client: Machine, line: Line) -> None:
        """``client``: whose connection it is."""
        self.broker = broker
        self.client = client
        self.open = True
        self.channels: dict[int, ServerChannel] = {}
        self._line = line
        self._unread = b""
        self._began = False
        self._blocked = False  # nothing is read until the end of the alarm
        self._gone = False  # the client is gone, which is seen when the broker reads again
        self._heard_at = self._said_at = broker.stage.now
        broker.sessions.append(self)
        broker.stage.later(_CHECK_SECONDS, self._check)

    # --- the connection -----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Send a heartbeat, and find out whether the client sends any."""
        now = self.broker.stage.now
        if not self.open:
            return
        if now > self._heard_at + _SILENCE_SECONDS and not self._blocked:
            self.reset()
            return
        if now >= self._said_at + _CHECK_SECONDS:
            self.write(wire.FRAME.pack(wire.HEARTBEAT, 0, 0) + wire.END)
        self.broker.stage.later(_CHECK_SECONDS, self._check)

    def reset(self) -> None:
        """The broker gives the connection up without a word."""
        self._blocked = False
        self._line.reset()
        self.end()

    def hang_up(self) -> None:
        """The broker closes the connection after what it has said."""
        self._line.goodbye()
        self.end()

    def end(self) -> None:
        """The connection is gone, which the broker notices when it reads."""
        if self._blocked:
            self._gone = True
            return
        if not self.open:
            return
        self.open = False
        self.broker.sessions.remove(self)
        channels, self.channels = self.channels, {}
        for channel in channels.values():
            channel.drop()
        for queue in [queue for queue in self.broker.queues.values() if queue.owner is self]:
            self.broker.delete(queue)

    def close(self, code: int, text: str) -> None:
        """The broker ends the connection with a reason."""
        self.say(0, (10, 50), "BsBB", (code, text, 0, 0))
        self._blocked = False
        self.hang_up()

    def unblock(self) -> None:
        """The alarm is over."""
        if not self._blocked:
            return
        self._blocked = False
        self.say(0, (10, 61))
        unread, self._unread = self._unread, b""
        self.receive(unread)
        if self._gone:
            self.end()

    def unacknowledged(self) -> list[tuple[Queue, Stored]]:
        return [(queue, one) for channel in self.channels.values() for queue, one, _ in channel.unacknowledged.values()]

    def cancel(self, consumer: Consumer) -> None:
        """The queue of a consumer was deleted."""
        for number, channel in self.channels.items():
            found = channel.consumers.get(consumer.tag)
            if found is not None and found[1] is consumer:
                del channel.consumers[consumer.tag]
                self.say(number, (60, 30), "sb", (consumer.tag, True))

    # --- what comes ---------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes have arrived."""
        self._heard_at = self.broker.stage.now
        if self._unread:
            data, self._unread = self._unread + data, b""
        at, size = 0, len(data)
        if not self._began:
            self._began = True
            at = _PROTOCOL_HEADER_BYTES
            properties = {"capabilities": _CAPABILITIES, "product": "RabbitMQ"}
            self.say(0, (10, 10), "ooFSS", (0, 9, properties, "PLAIN", "en_US"))
        while at + wire.FRAME.size <= size and self.open:
            kind, number, length = wire.FRAME.unpack_from(data, at)
            begin = at + wire.FRAME.size
            end = begin + length
            if end >= size:
                break
            payload = data[begin:end]
            if kind in _PUBLISHES:
                self._publish(number, kind, payload)
            elif kind == wire.METHOD:
                if payload[:4] != wire.PUBLISH:
                    self._method(number, payload)
                elif self.broker.blocked:
                    self._blocked = True
                    self.say(0, (10, 60), "s", ("low on memory",))
                    break
                else:
                    self._publish(number, kind, payload)
            at = end + 1
        self._unread = data[at:]
        for channel in self.channels.values():
            channel.answer_soon()

    def _publish(self, number: int, kind: int, payload: bytes) -> None:
        channel = self.channels[number]
        if not channel.closed:
            try:
                channel.take(kind, payload)
            except ChannelProblem as problem:
                self.close_channel(number, problem)

    def _method(self, number: int, payload: bytes) -> None:
        channel = self.channels.get(number)
        if channel is not None and channel.closed and payload[:4] != wire.CHANNEL_CLOSE_OK:
            return
        try:
            if channel is not None and payload[:4] == wire.ACK:
                tag, multiple = wire.SETTLED.unpack_from(payload, 4)
                channel.acknowledge(tag, bool(multiple))
            else:
                format, react = METHODS[payload[1], payload[3]]
                react(self, number, *(loads(format, payload, 4)[0] if format else ()))
        except ChannelProblem as problem:
            self.close_channel(number, problem)

    def close_channel(self, number: int, problem: ChannelProblem) -> None:
        """The broker closes a channel."""
        self.channels[number].drop()
        self.say(number, (20, 40), "BsBB", (problem.code, problem.text, 0, 0))

    # --- what goes ----------------------------------------------------------------------------------------------------------

    def say(self, number: int, method: tuple[int, int], format: str = "", arguments: tuple[Any, ...] = ()) -> None:
        self.write(wire.method(number, method, format, arguments))

    def write(self, data: bytes) -> None:
        self._said_at = self.broker.stage.now
        self._line.send(data)
