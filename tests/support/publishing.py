# SPDX-License-Identifier: Apache-2.0
"""A publisher without its thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

from tests.support.channels import SETTINGS, RecordingChannel, RecordingConnection
from tests.support.clocked import clocked_system
from tracker_worker.bus.amqp import outgoing
from tracker_worker.bus.amqp.internals import encode_properties
from tracker_worker.bus.amqp.outgoing import Message
from tracker_worker.bus.amqp.publisher import Publisher
from tracker_worker.bus.amqp.stream import Stream

PLAIN = encode_properties({})
RETRY = outgoing.RETRY_SECONDS
WINDOW = outgoing.WINDOW
FEW = 3
QUEUE = "notifications.info"
LONG = 1e9
"""A time that a message is tried again before, and that no test reaches."""


class Case:
    """A publisher without its thread, on a recording connection and a clock that stands still."""

    def __init__(self, confirm_threshold: int = FEW) -> None:
        self.now = 1000.0
        self.done: list[tuple[bytes, bool]] = []
        self.told = 0  # len(done) at the last call of ``confirmed``
        self.publisher = Publisher(
            SETTINGS,
            confirm_threshold=confirm_threshold,
            confirmed=self._confirmed,
            died=self._died,
            system=clocked_system(lambda: self.now),
        )
        self.connect()

    def _confirmed(self) -> None:
        self.told = len(self.done)

    def _died(self, error: BaseException) -> None:
        raise AssertionError from error

    def connect(self) -> None:
        self.connection = RecordingConnection()
        self.publisher.opened(self.connection)
        self.publisher._open.set()

    @property
    def channel(self) -> RecordingChannel:
        return [channel for channel in self.connection.channels if channel.confirms][-1]

    def message(self, body: bytes, *, retry_before: float | None = LONG, key: str = "reply_1") -> Message:
        def done(routed: bool) -> None:
            self.done.append((body, routed))

        exchange = SETTINGS.exchange if key == QUEUE else ""
        return Message(
            exchange=exchange, routing_key=key, body=body, properties=PLAIN, done=done, retry_before=retry_before
        )

    def submit(self, *bodies: bytes, retry_before: float | None = LONG, key: str = "reply_1") -> None:
        self.publisher.submit(*(self.message(body, retry_before=retry_before, key=key) for body in bodies))
        self.publisher.work()

    def lose(self, error: Exception | None = None) -> None:
        """The connection ends, with the broker's ``error`` if it has closed the connection."""
        if error is not None:
            self.publisher.failed(error)
        self.publisher._open.clear()
        self.publisher.lost()

    def rest(self) -> None:
        """Act as if the publisher's thread slept from here on: the submitting thread then has the write turn."""
        self.publisher._turn.serve(cast(Stream, SimpleNamespace(tls=True, written=bytearray())))
        self.publisher._turn.begin_sleep()

    def published(self) -> list[bytes]:
        """The bodies published on the present connection."""
        return [message.body for channel in self.connection.channels for message in channel.published]

    def tag(self) -> int:
        """The tag of the last message on the present channel."""
        return len(self.channel.published)

    def ack(self, tag: int, multiple: bool = False) -> None:
        self.channel.tell("basic_ack", tag, multiple)

    def nack(self, tag: int, multiple: bool = False) -> None:
        self.channel.tell("basic_nack", tag, multiple)

    def give_back(self, body: bytes, key: str = "reply_1", exchange: str = "") -> None:
        self.channel.tell("basic_return", None, exchange, key, SimpleNamespace(body=body))

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.publisher.work()


@contextmanager
def stopped() -> Iterator[Case]:
    """Yield a case, and stop its publisher afterwards."""
    case = Case()
    yield case
    case.publisher.stop(0)
