# SPDX-License-Identifier: Apache-2.0
"""Publishing with publisher confirms, for subcommands that send messages to the broker themselves."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import amqp
from amqp.exceptions import ChannelError

from tracker_worker.bus.amqp.confirms import Confirms
from tracker_worker.bus.amqp.internals import encode_properties

CONFIRM_SECONDS = 30
_HEARTBEAT_CHECK_SECONDS = 1
_FRAME_OVERHEAD = 20  # of a content header: the frame's 8 bytes, class, weight and body size


class Answer(enum.Enum):
    """What the broker has answered about one message."""

    CONFIRMED = "confirmed"
    """Every queue that the message was routed to has it."""
    REFUSED = "refused"
    """A queue was full or has failed: the broker has not taken responsibility for the message."""
    RETURNED = "returned"
    """No queue is bound for the routing key: the broker has dropped the message."""


class NoAnswer(Exception):
    """The broker confirmed and refused nothing for CONFIRM_SECONDS, although messages wait for its answer."""


class Unsendable(Exception):
    """The properties or headers cannot be written, or not into one frame."""


@dataclass(slots=True, eq=False)
class Published:
    """One message that was sent. ``answer`` is None until the broker has answered."""

    body: bytes
    exchange: str
    routing_key: str
    answer: Answer | None = None


class ConfirmedPublisher:
    """Publishes on a channel in confirm mode of a py-amqp connection. Belongs to the thread that uses the connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel: Any = None
        self._confirms: Confirms[Published] = Confirms(
            confirmed=lambda messages: _settle(messages, Answer.CONFIRMED),
            refused=lambda messages: _settle(messages, Answer.REFUSED),
            returned=self._returned,
        )

    def publish(self, body: bytes, properties: Mapping[str, Any], *, exchange: str, routing_key: str) -> Published:
        """Send a message without waiting for its confirm. ``properties`` are py-amqp's, with ``application_headers``.

        Raises Unsendable; ChannelError as ``wait``, and what a lost connection raises.
        """
        self._check(properties)
        if self._channel is None:
            self._channel = self._connection.channel()
            self._confirms.watch(self._channel)
        published = Published(body, exchange, routing_key)
        self._confirms.add(published)
        try:
            self._channel.basic_publish(
                amqp.Message(body, **properties), exchange=exchange, routing_key=routing_key, mandatory=True
            )
        except ChannelError:
            self._forget_channel()
            raise
        return published

    def _check(self, properties: Mapping[str, Any]) -> None:
        # Some headers can be read and not written again, or only in more bytes (deep lists, one-byte integers).
        try:
            size = len(encode_properties(properties))
        except Exception as error:  # whatever the values make the encoder raise
            raise Unsendable(f"its headers cannot be written again: {type(error).__name__}") from error
        if size > self._connection.frame_max - _FRAME_OVERHEAD:
            raise Unsendable(
                f"its headers have {size} bytes, more than a frame of {self._connection.frame_max} bytes holds"
            )

    def wait(self) -> None:
        """Return when the broker has answered about every published message. Heartbeats are sent while this waits.

        Raises NoAnswer; ChannelError: an exchange does not exist, or the user may not publish to it (messages without an
        answer stay without one, the next ``publish`` opens a new channel); and what a lost connection raises.
        """
        unanswered = len(self._confirms.pending)
        deadline = time.monotonic() + CONFIRM_SECONDS
        while self._confirms.pending:
            try:
                self._connection.drain_events(timeout=_HEARTBEAT_CHECK_SECONDS)
            except TimeoutError:
                self._connection.heartbeat_tick()
            except ChannelError:
                self._forget_channel()
                raise
            if len(self._confirms.pending) < unanswered:
                unanswered = len(self._confirms.pending)
                deadline = time.monotonic() + CONFIRM_SECONDS
            elif time.monotonic() > deadline:
                raise NoAnswer(f"the broker has not confirmed within {CONFIRM_SECONDS} s")

    def _forget_channel(self) -> None:
        self._channel = None
        self._confirms.forget()

    def _returned(self, exchange: str, routing_key: str, body: bytes) -> None:
        # The confirm of a returned message follows. Of several equal messages the oldest is meant.
        for message in self._confirms.pending.values():
            same = (message.exchange, message.routing_key, message.body) == (exchange, routing_key, body)
            if same and message.answer is None:
                message.answer = Answer.RETURNED
                return


def _settle(messages: list[Published], answer: Answer) -> None:
    for message in messages:
        message.answer = message.answer or answer
