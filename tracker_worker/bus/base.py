# SPDX-License-Identifier: Apache-2.0
"""The bus port: what the engine needs of something that carries messages.

A delivery is the bus's until it is received, then the engine's until it is settled, once, by exactly one of ``settle``,
``answer`` or ``park``; what was received and not settled is delivered again, in order, to whoever serves the host next.

            received                settle / published and confirmed
    waiting ---------> unsettled -----------------------------------> gone
       ^                   |
       +-------------------+   connection lost, worker stopped or killed
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import msgspec

from tracker_worker.wire.envelope import ReplyTo

# Where a delivery came from when it was not a host's own queue.
SHARED = ""
FANOUT = "*"


class Delivery(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One message as it arrived. ``source`` is the host whose queue it came from, SHARED or FANOUT. ``deadline`` is
    the time on the monotonic clock, in seconds, from which nobody waits for a reply; None: no such time. ``token`` is
    the bus's."""

    body: bytes
    source: str
    content_type: str | None = None
    headers: Mapping[str, Any] = msgspec.field(default_factory=dict)
    properties: Mapping[str, Any] = msgspec.field(default_factory=dict)
    exchange: str = ""
    routing_key: str = ""
    deadline: float | None = None
    token: Any = None


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One notification to publish. ``key`` identifies it when it is confirmed."""

    key: Any
    priority: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Whom the bus tells what. Called on the bus's threads: each must return at once and never raise."""

    received: Callable[[Sequence[Delivery]], None]
    confirmed: Callable[[Sequence[Any]], None]
    died: Callable[[BaseException], None]


class Bus(ABC):
    """Every method but ``start`` and ``stop`` may be called from any thread, returns at once, and does its work when
    there is a broker again if there is none now."""

    @abstractmethod
    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        """Begin to serve the hosts' queues, in the background. A broker that is not there is waited for."""

    @abstractmethod
    def pause(self) -> None:
        """Receive nothing new."""

    @abstractmethod
    def stop(self, timeout_seconds: float) -> None:
        """Publish and settle what is waiting, for at most so long; return what is unsettled. Harmless when stopped."""

    @abstractmethod
    def connected(self) -> bool:
        """Whether the hosts' queues are being consumed and notifications can be published, now."""

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """What is answered, parked and notified within this goes out at its end, as one: for the engine's thread, which alone
        does these three."""

    @abstractmethod
    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """They are done with; they do not come again."""

    @abstractmethod
    def answer(self, delivery: Delivery, reply_to: ReplyTo, body: bytes) -> None:
        """Publish a reply, and settle the delivery when the reply is safe, or when nobody is there to take it."""

    @abstractmethod
    def beat(self, reply_to: ReplyTo, body: bytes) -> None:
        """Publish a heartbeat of a call that is still being worked on; it may be lost."""

    @abstractmethod
    def park(self, delivery: Delivery, reason: str) -> None:
        """Publish the message, byte by byte and with its properties, to the dead-letter queue with ``reason``, and
        settle the delivery when it is safe there."""

    @abstractmethod
    def notify(self, notifications: Sequence[Outgoing]) -> None:
        """Publish in this order. Each key is ``confirmed`` when every queue for it has it; after a loss it is sent
        again."""
