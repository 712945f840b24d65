# SPDX-License-Identifier: Apache-2.0
"""Publisher confirms: which messages of a channel the broker has not yet taken responsibility for.

RabbitMQ numbers the publishes of a channel in confirm mode from 1. An acknowledgement with ``multiple`` stands for all numbers
up to its own. A mandatory message that no queue takes is returned first, without its number, and confirmed afterwards
(RabbitMQ's documentation of publisher confirms).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Confirms(Generic[T]):
    """The unconfirmed messages of one channel, by number. Belongs to the connection's thread, or to the one that has its turn.

    Each callback gets the messages that one answer of the broker is about, in the order in which they were published.
    """

    def __init__(
        self,
        *,
        confirmed: Callable[[list[T]], None],
        refused: Callable[[list[T]], None],
        returned: Callable[[str, str, bytes], None],
    ) -> None:
        """``returned`` gets the exchange, the routing key and the body of a returned message."""
        self.pending: dict[int, T] = {}
        self.published = 0
        self._confirmed = confirmed
        self._refused = refused
        self._returned = returned

    def watch(self, channel: Any) -> None:
        """Put a new channel into confirm mode; what is pending belongs to it from now on."""
        channel.auto_decode = False  # the bytes of a returned body are compared with those that were sent
        self.select(channel)
        channel.events["basic_ack"].add(lambda tag, multiple: self._confirmed(self._take(tag, multiple)))
        channel.events["basic_nack"].add(lambda tag, multiple: self._refused(self._take(tag, multiple)))
        channel.events["basic_return"].add(self._on_return)

    def select(self, channel: Any) -> None:
        """Put a watched channel, which has been opened again, into confirm mode."""
        self.published = 0
        channel.confirm_select()

    def add(self, message: T) -> None:
        """``message`` is published next."""
        self.published += 1
        self.pending[self.published] = message

    def forget(self) -> list[T]:
        """The channel is lost. Returns what was pending on it, in order."""
        pending = list(self.pending.values())
        self.pending.clear()
        return pending

    def _take(self, tag: int, multiple: bool) -> list[T]:
        tags = list(itertools.takewhile(lambda number: number <= tag, self.pending)) if multiple else [tag]
        return [self.pending.pop(number) for number in tags]

    def _on_return(self, _error: Any, exchange: str, routing_key: str, message: Any) -> None:
        body = message.body
        self._returned(exchange, routing_key, body.encode() if isinstance(body, str) else bytes(body))
