# SPDX-License-Identifier: Apache-2.0
"""The dead-letter queue, looked into without disturbing it.

AMQP has no way to look at a message but to take it. What is not removed goes back when the channel is closed, and three
facts of RabbitMQ (measured with 3.10.8) decide how it must be done:

- A quorum queue puts what comes back in front of what was never taken, but behind what came back before. Whoever takes some
  and not all of these has the others overtake them: everything is taken, always.
- It returns the messages of one consumer in their order, those of several gets in none: one consumer takes them.
- It ignores a consumer's wish to be alone: an exclusive queue of another name is the lock. Messages that come back are
  there a moment after the channel is closed: they are waited for before the next one may look.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from amqp.exceptions import ChannelError, NotFound, ResourceLocked

from tracker_worker.bus.settings import LOST, BrokerSettings
from tracker_worker.cli.broker import connected
from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.dead_letters.message import Letter, read_letter

# The most that a consumer can have in hand (AMQP 0-9-1, basic.qos). Without a limit RabbitMQ 3.10's quorum queues give 2000.
MOST = 65535
_LOCK_SECONDS = 5
_IDLE_SECONDS = 5
_RETURN_SECONDS = 5
_CLOSE_SECONDS = 5
_POLL_SECONDS = 0.1
_NEVER = datetime.min.replace(tzinfo=UTC)


def never(letter: Letter) -> bool:
    """For whoever needs no bodies."""
    return False


class Letterbox:
    """What was in the queue when it was opened, oldest first. ``behind`` more came after these and were not looked at."""

    def __init__(self, connection: Any, settings: BrokerSettings, max_bytes: int) -> None:
        self.connection = connection
        self.letters: list[Letter] = []
        self.behind = 0
        self._queue = settings.dead_letter_queue
        self._topic = settings.topic
        self._max_bytes = max_bytes
        self._channel: Any = None
        self._removed = 0

    def open(self, keep: Callable[[Letter], bool]) -> None:
        """Take the letters; those that ``keep`` says with their bodies, as all of them might be too much."""
        count = ready(self.connection, self._queue)
        wanted = min(count, MOST)
        self.behind = count - wanted
        if not wanted:
            return
        self._channel = channel = self.connection.channel()
        channel.auto_decode = False  # the bytes as they are
        channel.basic_qos(0, wanted, False)

        def arrived(message: Any) -> None:
            if len(self.letters) < wanted:  # room that was made by removing some is filled up with others
                letter = self._read(message)
                self.letters.append(letter if keep(letter) else replace(letter, body=None))

        consumer = channel.basic_consume(self._queue, callback=arrived)
        with contextlib.suppress(TimeoutError):  # somebody else takes them too
            while len(self.letters) < wanted:
                self.connection.drain_events(timeout=_IDLE_SECONDS)
        channel.basic_cancel(consumer)  # what comes when some have been removed stays where it is
        self.letters = _ordered(self.letters)

    def _read(self, message: Any) -> Letter:
        properties = dict(message.properties)
        headers = properties.pop("application_headers", None) or {}
        body = message.body
        return read_letter(
            body.encode() if isinstance(body, str) else bytes(body or b""),
            headers,
            properties,
            tag=message.delivery_info["delivery_tag"],
            topic=self._topic,
            max_bytes=self._max_bytes,
        )

    def remove(self, letter: Letter) -> None:
        """For good, when the box is closed without an error."""
        self._channel.basic_ack(letter.tag)
        self._removed += 1

    def close(self) -> None:
        """What was not removed goes back, in order. Returns when it is there again."""
        if self._channel is None:
            return
        self._channel.close()
        left = len(self.letters) - self._removed
        deadline = time.monotonic() + _RETURN_SECONDS
        while ready(self.connection, self._queue) < left and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _ordered(letters: list[Letter]) -> list[Letter]:
    """By time, and within a second as in the queue, whose order others may have upset. One without a time stays behind
    the one in front of it."""
    latest = _NEVER
    keyed = []
    for letter in letters:
        latest = letter.time or latest
        keyed.append((latest, letter))
    keyed.sort(key=lambda pair: pair[0])
    return [replace(letter, number=number) for number, (_, letter) in enumerate(keyed, 1)]


def ready(connection: Any, queue: str) -> int:
    """Messages that wait in a queue. A queue that is not there has none."""
    channel = connection.channel()
    try:
        count = int(channel.queue_declare(queue, passive=True).message_count)
    except NotFound:
        return 0
    channel.close()
    return count


@contextmanager
def opened(settings: BrokerSettings, max_bytes: int, *, keep: Callable[[Letter], bool] = never) -> Iterator[Letterbox]:
    """The letters, for nobody else meanwhile. ``max_bytes`` is the largest body that the worker takes.

    Raises CommandFailed: no broker, it refuses, somebody else is at it for too long.
    """
    with locked(settings) as connection:
        box = Letterbox(connection, settings, max_bytes)
        try:
            box.open(keep)
            yield box
        except BaseException:
            if connection.connected:
                connection.sock.settimeout(_CLOSE_SECONDS)  # a broker with an alarm does not read
            with contextlib.suppress(*LOST):  # the error that there is already says more
                box.close()
            raise
        box.close()


@contextmanager
def locked(settings: BrokerSettings) -> Iterator[Any]:
    """A connection, with the dead letters for oneself. Raises CommandFailed."""
    with connected(settings) as connection:
        try:
            _lock(connection, f"{settings.dead_letter_queue}.operator")
            yield connection
        except ChannelError as error:
            raise CommandFailed(f"the broker refuses: {error}") from error
        except UnicodeDecodeError as error:
            raise CommandFailed(f"a property of a dead letter is no text ({error}); purge --all removes it") from error


def _lock(connection: Any, name: str) -> None:
    """An exclusive queue is its connection's alone, and gone with it."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            connection.channel().queue_declare(name, exclusive=True, auto_delete=True)
        except ResourceLocked:
            if time.monotonic() > deadline:
                raise CommandFailed(
                    f"somebody else is at the dead letters (queue {name} is theirs); try again when they are done"
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return
