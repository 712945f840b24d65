# SPDX-License-Identifier: Apache-2.0
"""A message on its way to the broker, and the queue that it goes to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

FOREVER = float("inf")
# Unconfirmed messages of one destination on the wire, and their bytes; further ones wait in memory.
WINDOW = 1024
WINDOW_BYTES = 4 * 1024 * 1024
RETRY_SECONDS = 0.5


class Done(Protocol):
    """Called by the thread that has the write turn when the broker has confirmed the message, or (``routed`` False) when no
    queue takes it for now."""

    def __call__(self, routed: bool) -> None: ...


@dataclass(slots=True, eq=False)
class Message:
    """One message to publish. ``properties`` are a result of ``internals.encode_properties``.

    ``retry_before`` (monotonic clock, seconds) says how long the publisher keeps a message that its queue does not take,
    because the queue is missing or full. The first such answer is reported as ``done(False)``, and no later result. None: the
    message is not tried again; it is dropped without a report if the connection is lost, and one that a full queue refuses
    counts as routed. FOREVER: the message is kept until a queue takes it, nothing is reported before, and later messages for
    the same queue wait, so that they stay in order. A message that is not published before ``deadline`` (monotonic clock) is
    dropped and reported as ``done(False)``.

    ``renewed`` makes the body of the next attempt from the body of the last one; None: the body stays the same. ``fitted``
    makes properties of at most so many bytes for a connection whose frames are too small for ``properties``. ``urgent``: the
    publisher reads the confirm without delay. ``item`` is for the caller's ``Publisher.given_up``."""

    exchange: str
    routing_key: str
    body: bytes
    properties: bytes
    done: Done | None = None
    retry_before: float | None = None
    mandatory: bool = True
    urgent: bool = False
    renewed: Callable[[bytes], bytes] | None = None
    deadline: float = FOREVER
    fitted: Callable[[int], bytes] | None = None
    item: Any = None
    number: int = field(default=0, init=False)  # the order of submission
    size: int = field(default=0, init=False)  # bytes of the body
    attempts: int = field(default=0, init=False)
    returned: bool = field(default=False, init=False)
    destination: Destination = field(init=False)

    def notify_unrouted(self) -> None:
        """Report once that no queue takes the message for now."""
        done, self.done = self.done, None
        if done is not None:
            done(False)

    def is_late(self, now: float) -> bool:
        """Whether nobody waits for the message any more, or its queue has not taken it for too long."""
        return now >= self.deadline or (
            self.retry_before is not None and self.attempts > 0 and now >= self.retry_before
        )


class Destination:
    """One queue that messages go to. ``closed``: a message may not be sent at once, it waits in order."""

    __slots__ = (
        "closed",
        "delay",
        "held",
        "missing",
        "name",
        "out",
        "out_bytes",
        "probing",
        "refusals",
        "retry_at",
        "returning",
        "suspected",
        "waiting",
        "warned",
        "window",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.held = False
        self.missing = False
        self.suspected = False  # a message for it waits to be tried alone
        self.probing = False
        self.refusals = 0  # in a row
        self.warned = False
        self.out = 0  # messages on the wire, and released to be written
        self.out_bytes = 0
        self.window = WINDOW
        self.delay = RETRY_SECONDS
        self.retry_at = 0.0
        self.waiting: deque[Message] = deque()
        self.returning: list[Message] = []  # from the wire; they go in front of ``waiting``

    def is_idle(self) -> bool:
        return not (self.out or self.waiting or self.returning or self.held or self.suspected)

    def put_returning_in_front(self) -> None:
        self.returning.sort(key=_number, reverse=True)
        self.waiting.extendleft(self.returning)
        self.returning.clear()

    def waits(self) -> tuple[int, int]:
        """How many messages wait, and their bytes."""
        messages = [*self.waiting, *self.returning]
        return len(messages), sum(message.size for message in messages)


def _number(message: Message) -> int:
    return message.number
