# SPDX-License-Identifier: Apache-2.0
"""A connection that records its calls, in place of a broker; a test sends the broker's answers."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import amqp
from amqp import spec
from amqp.serialization import dumps

import tests.support.messaging  # noqa: F401 before oslo.messaging
from tracker_worker.bus.amqp.internals import encode_properties
from tracker_worker.bus.settings import BrokerSettings
from tracker_worker.notifications.dialects.table import PLAIN

SETTINGS = BrokerSettings(
    urls=("pyamqp://guest:guest@127.0.0.1:5672/%2F",),
    exchange="openstack",
    topic="tracker",
    queue_type="quorum",
    prefetch=256,
    max_unsettled_bytes=67108864,
    dead_letter_queue="tracker.dead",
    notification_topics={"notifications": PLAIN},
    durable=False,
    auto_delete=False,
    quorum=False,
    durable_fanout=False,
    quorum_limits={},
    login_method="PLAIN",
    heartbeat_seconds=15,
    retry_start_seconds=1.0,
    retry_step_seconds=2.0,
    retry_max_seconds=30.0,
    tls=None,
)


@dataclass(frozen=True)
class Published:
    """One message as it was written to the connection."""

    channel: int
    exchange: str
    routing_key: str
    mandatory: bool
    properties: bytes
    body: bytes


def read_publish(frames: bytes) -> Published:
    """Read the frames of one basic.publish and assert their form."""
    payloads: list[tuple[int, bytes]] = []
    numbers: set[int] = set()
    while frames:
        kind, channel, size = struct.unpack_from(">BHI", frames)
        assert frames[7 + size] == 0xCE
        payloads.append((kind, frames[7 : 7 + size]))
        numbers.add(channel)
        frames = frames[8 + size :]
    (_, method), (_, header), *parts = payloads
    assert [kind for kind, _ in payloads] == [1, 2, *[3] * len(parts)]
    assert method[:6] == struct.pack(">HHH", 60, 40, 0)
    names, position = [], 6
    for _ in range(2):
        end = position + 1 + method[position]
        names.append(method[position + 1 : end].decode())
        position = end
    body = b"".join(part for _, part in parts)
    assert struct.unpack_from(">HHQ", header) == (60, 0, len(body))
    (number,) = numbers
    return Published(number, names[0], names[1], method[position:] == b"\x01", header[12:], body)


class RecordingChannel:
    """A channel that records its calls; it declares and delivers nothing by itself."""

    def __init__(self, connection: Any, channel_id: int) -> None:
        self.connection = connection
        self.channel_id = channel_id
        self.auto_decode = True
        self.events: dict[str, set[Callable[..., None]]] = defaultdict(set)
        self.declared: list[str] = []
        self.looked_for: list[str] = []
        self.qos: list[tuple[int, int, bool]] = []
        self.consumers: list[str] = []
        self.limits: dict[str, int] = {}
        self.acks: list[tuple[int, bool]] = []
        self.published: list[Published] = []
        self.confirms = False
        # py-amqp keeps the reactions to methods of the broker here.
        self._callbacks: dict[Any, Callable[..., None]] = {spec.Channel.Close: self._library_close}

    def _library_close(self, code: int, text: str, class_id: int, method_id: int) -> None:
        """As py-amqp: the channel is open again, without confirms, and the error is raised."""
        self.confirms = False
        raise amqp.exceptions.error_for_code(code, text, (class_id, method_id), amqp.ChannelError)

    def close_by_broker(self, code: int, text: str) -> None:
        """The broker closes the channel."""
        self._callbacks[spec.Channel.Close](code, text, *spec.Basic.Publish)

    def exchange_declare(self, name: str, type: str, **_options: Any) -> None:
        self.declared.append(name)

    def queue_declare(self, name: str, **_options: Any) -> None:
        self.declared.append(name)

    def queue_bind(self, *_arguments: Any, **_options: Any) -> None:
        """Bindings are not recorded."""

    def close(self) -> None:
        """The channel has nothing to close."""

    def basic_consume(self, queue: str, **_options: Any) -> None:
        self.consumers.append(queue)
        self.limits[queue] = self.qos[-1][1]

    def send_method(self, method: tuple[int, int], _format: str, arguments: Any) -> None:
        if method == spec.Queue.Declare:
            assert arguments[2]  # passive
            self.looked_for.append(arguments[1])
            return
        assert method == spec.Basic.Qos
        self.qos.append(arguments)

    def find_queue(self) -> None:
        """The broker answers that the queue is there which was looked for."""
        self._callbacks[spec.Queue.DeclareOk]("queue", 0, 1)

    def answer(self) -> None:
        """Answer what has been asked about the prefetch."""
        for _ in self.qos:
            self.connection.on_inbound_frame((1, self.channel_id, struct.pack(">HH", *spec.Basic.QosOk)))

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.acks.append((tag, multiple))

    def confirm_select(self) -> None:
        self.confirms = True

    def tell(self, event: str, *arguments: Any) -> None:
        """Send ``event`` to its handlers, as the broker would."""
        for handler in self.events[event]:
            handler(*arguments)

    def deliver(self, queue: str, tag: int, body: bytes, properties: Mapping[str, Any] | None = None) -> None:
        method = struct.pack(">HH", *spec.Basic.Deliver) + dumps("sLbss", (queue, tag, False, "openstack", queue))
        header = struct.pack(">HHQ", 60, 0, len(body)) + encode_properties(properties or {})
        for kind, payload in ((1, method), (2, header), (3, body)):
            if payload:
                self.connection.on_inbound_frame((kind, self.channel_id, payload))


class RecordingConnection:
    """Opens recording channels. ``last`` is the most recent channel, which is not the one for declarations."""

    frame_max = 131072

    def __init__(self) -> None:
        self.bytes_recv = 0  # py-amqp counts frames under this name
        self.channels: list[RecordingChannel] = []
        self.transport = SimpleNamespace(write=self._written)
        self.left: list[tuple[int, int, bytes]] = []  # the frames that the library would get
        self.on_inbound_frame: Callable[[tuple[int, int, bytes]], Any] = self.left.append

    def channel(self) -> RecordingChannel:
        self.channels.append(RecordingChannel(self, len(self.channels)))
        return self.channels[-1]

    def _written(self, frames: bytes) -> None:
        published = read_publish(frames)
        self.channels[published.channel].published.append(published)

    @property
    def last(self) -> RecordingChannel:
        return self.channels[-1]

    def declared(self) -> list[str]:
        return [name for channel in self.channels for name in channel.declared]
