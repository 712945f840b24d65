# SPDX-License-Identifier: Apache-2.0
"""Dead letter -> where it had been sent, once more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import amqp
from amqp.exceptions import ChannelError

from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.dead_letters.message import Letter, sendable_properties
from tracker_worker.cli.dead_letters.queue import Letterbox

_CONFIRM_SECONDS = 30
_HEARTBEAT_CHECK_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """``kept`` is why the letter is still there; None: it was sent and removed."""

    letter: Letter
    kept: str | None


def replay(box: Letterbox, chosen: Sequence[Letter], *, calls: bool) -> Iterator[Outcome]:
    """Send each, and remove it when the broker has confirmed that it is safe in a queue. One after the other, so that an
    interruption leaves at most one that was sent and is still here.

    Without ``calls`` these are kept. A letter that cannot be delivered keeps back the later ones to the same place, which
    must not overtake it. Raises CommandFailed: the broker does not answer; and what a lost connection raises.
    """
    sender = _Sender(box.connection)
    closed: dict[str, str] = {}
    for letter in chosen:
        kept = objection(letter, calls=calls)
        if kept is None:
            kept = closed.get(letter.target) or sender.send(letter)
            if kept is None:
                box.remove(letter)
            else:
                closed[letter.target] = kept
        yield Outcome(letter, kept)


def objection(letter: Letter, *, calls: bool) -> str | None:
    """Why it is not even tried, or None."""
    if letter.call and not calls:
        return "it is a call, whose caller has given up: purge it, or replay it by its number or id"
    if not letter.target.strip("/"):
        return "nothing says where it had been sent"
    return None


class _Sender:
    """Publishes and waits for the confirm."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel: Any = None
        self._confirmed: bool | None = None
        self._returned = False

    def send(self, letter: Letter) -> str | None:
        """Why it is not in a queue, or None: it is."""
        assert letter.body is not None
        if self._channel is None:
            self._open()
        self._confirmed, self._returned = None, False
        message = amqp.Message(letter.body, **sendable_properties(letter))
        try:
            self._channel.basic_publish(
                message, exchange=letter.exchange, routing_key=letter.routing_key, mandatory=True
            )
            self._wait(letter)
        except ChannelError as error:  # no such exchange, or not allowed
            self._channel = None
            return f"the broker refuses it: {error}"
        if self._returned:
            return f"no queue takes {letter.target}: nobody has served it"
        return None if self._confirmed else "the broker refuses it: the queue is full, or has failed"

    def _open(self) -> None:
        self._channel = channel = self._connection.channel()
        channel.confirm_select()
        channel.events["basic_ack"].add(lambda tag, multiple: self._answered(True))
        channel.events["basic_nack"].add(lambda tag, multiple: self._answered(False))
        channel.events["basic_return"].add(self._came_back)

    def _answered(self, confirmed: bool) -> None:
        self._confirmed = confirmed

    def _came_back(self, _error: Any, _exchange: str, _routing_key: str, _message: Any) -> None:
        self._returned = True  # the confirm follows

    def _wait(self, letter: Letter) -> None:
        deadline = time.monotonic() + _CONFIRM_SECONDS
        while self._confirmed is None:
            try:
                self._connection.drain_events(timeout=_HEARTBEAT_CHECK_SECONDS)
            except TimeoutError:
                self._connection.heartbeat_tick()
                if time.monotonic() > deadline:
                    raise CommandFailed(
                        f"the broker has not confirmed {letter.id} within {_CONFIRM_SECONDS} s; it is kept, perhaps sent too"
                    ) from None
