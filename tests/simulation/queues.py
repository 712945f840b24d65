# SPDX-License-Identifier: Apache-2.0
"""Messages, exchanges and queues of the broker."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tracker_worker.bus.amqp.internals import decode_content
from tracker_worker.wire.message import JSON

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.session import Session

_PERSISTENT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as clients send it, and as what is heard and parked is shown. ``deadline`` is its expiration, as a time."""

    body: bytes
    content_type: str = JSON
    headers: Mapping[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    message_id: str = ""


class Stored:
    """A message at the broker. ``returns``: how often it has come back to its queue. ``came_at``: when it was published;
    ``moved_at``: when it was given out for the last time, or else when it was published."""

    __slots__ = (
        "body",
        "came_at",
        "exchange",
        "expires_at",
        "message_id",
        "moved_at",
        "persistent",
        "properties",
        "returns",
        "routing_key",
    )

    def __init__(
        self, exchange: str, routing_key: str, properties: bytes, body: bytes, now: float, message_id: str = ""
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.body = body
        self.message_id = message_id
        self.returns = 0
        self.came_at = self.moved_at = now
        self.persistent, seconds = _kept(properties)
        self.expires_at = None if seconds is None else now + seconds


@lru_cache(maxsize=512)
def _kept(properties: bytes) -> tuple[bool, float | None]:
    """Whether a message with these properties is persistent, and its expiration in seconds."""
    found = decode_content(properties).properties
    expiration = found.get("expiration")
    return found.get("delivery_mode") == _PERSISTENT, None if expiration is None else int(expiration) / 1000


class Consumer:
    """``limit``: how many messages it may hold (0: any number); ``held``: how many it holds."""

    __slots__ = ("give", "held", "limit", "session", "tag")

    def __init__(self, session: Session, tag: str, limit: int, give: Callable[[Consumer, Queue, Stored], None]) -> None:
        self.session = session
        self.tag = tag
        self.limit = limit
        self.held = 0
        self.give = give


class Queue:
    """``consumers`` in the order of their coming. ``full``: it refuses what is published. ``stuck``: it neither takes nor
    refuses what is published, as a quorum queue without its majority; that is in ``undecided``, each with what to call when it
    is taken."""

    def __init__(
        self,
        name: str,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        owner: Session | None = None,
        maker: Machine,
        arguments: Mapping[str, Any] = {},
    ) -> None:
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.maker = maker
        self.arguments = arguments
        self.single = bool(arguments.get("x-single-active-consumer"))
        self.quorum = arguments.get("x-queue-type") == "quorum"
        self.ready: deque[Stored] = deque()
        self.consumers: list[Consumer] = []
        self.most = arguments.get("x-max-length")
        self.full = False
        self.stuck = False
        self.undecided: list[tuple[Stored, Session, Callable[[], object]]] = []
        self.deleted = False

    def refuses(self) -> bool:
        return self.full or (self.most is not None and len(self.ready) >= self.most)

    def declared_with(self) -> tuple[object, ...]:
        return self.durable, self.owner, self.auto_delete, self.arguments

    def expire(self, now: float) -> None:
        """Drop what has expired at the head."""
        ready = self.ready
        while ready and ready[0].expires_at is not None and ready[0].expires_at < now:
            ready.popleft()


class Exchange:
    """``bindings``: names of queues by routing key."""

    def __init__(self, name: str, kind: str, *, durable: bool, auto_delete: bool) -> None:
        self.name = name
        self.kind = kind
        self.durable = durable
        self.auto_delete = auto_delete
        self.bindings: dict[str, dict[str, Queue]] = {}

    def route(self, key: str) -> Iterable[Queue]:
        if self.kind == "fanout":
            return [queue for queues in self.bindings.values() for queue in queues.values()]
        return self.bindings.get(key, {}).values()

    def unbind(self, queue: Queue) -> None:
        for key, queues in list(self.bindings.items()):
            if queues.pop(queue.name, None) is not None and not queues:
                del self.bindings[key]
