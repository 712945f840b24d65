# SPDX-License-Identifier: Apache-2.0
"""The evidence after a run: clients' answers, received notifications, parked messages, and the contents of the store.

All of it is plain data that can be written as JSON lines, read by another process, and altered by a test. Times are seconds
of the machine's monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

# The outcome of a request for its sender.
RESULT = "result"  # a call was answered
ERROR = "error"  # a call was refused
SENT = "sent"  # the broker has confirmed a cast
UNKNOWN = "unknown"  # no answer in time, or the connection was lost while the request was sent

Place = tuple[str, str]
"""Host and node."""

Vector = Mapping[str, int]
"""Resource class -> amount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sent message and its outcome. Requests with the same ``unique_id`` are copies of one message.

    ``host`` is the host whose topic the message was sent to, None for the shared topic. ``error`` is the stable code,
    or the name of the class if the error has no code; ``facts`` are the error's arguments.
    """

    unique_id: str
    host: str | None
    method: str
    args: Mapping[str, Any]
    call: bool
    sent_at: float
    ended_at: float
    outcome: str
    reply: Any = None
    error: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    client: str = ""

    @property
    def about(self) -> str | None:
        """The host whose state the request concerns."""
        return self.host if self.host is not None else self.args.get("host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One notification as it arrived in a queue. Its place among the notifications of the same queue is its order of
    arrival.
    """

    queue: str
    message_id: str
    event_type: str
    priority: str
    publisher_id: str
    timestamp: str
    payload: Mapping[str, Any]

    @property
    def place(self) -> Place:
        return str(self.payload["host"]), str(self.payload["node"])

    @property
    def sequence(self) -> int:
        return int(self.payload["sequence"])

    @property
    def generation(self) -> int:
        return int(self.payload["generation"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """One message in the dead-letter queue."""

    unique_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAllocation:
    """One allocation in the store."""

    claim_id: str
    resources: Vector
    claim_state: str
    role: str = "instance"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """One row of the outbox."""

    sequence: int
    message_id: str
    event_type: str
    priority: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNode:
    """One node in the store. ``usage`` holds its columns, as a scheduler reads them with SQL. ``held``: what it is charged for
    instances, by uuid; ``moving``: for instances that move, by uuid and role."""

    generation: int
    sequence: int
    reserved: Vector
    usage: Vector
    held: Mapping[str, StoredAllocation]
    issued: Sequence[OutboxRow]
    cursor: int
    moving: Mapping[tuple[str, str], StoredAllocation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All evidence of a run. ``inbox``: unique_id -> the stored reply, ``{"result", "failure"}`` for a call and None for a
    cast. ``others``: topic -> its notifications, for topics beside that of ``heard`` whose queues may have refused some of
    them for a while, so that they arrived in another order.
    """

    requests: Sequence[Request]
    heard: Sequence[Heard]
    parked: Sequence[Parked]
    nodes: Mapping[Place, StoredNode]
    inbox: Mapping[str, Mapping[str, Any] | None]
    others: Mapping[str, Sequence[Heard]] = field(default_factory=dict)


_Line = TypeVar("_Line", Request, Heard, Parked)


def line(value: Request | Heard | Parked) -> str:
    """One line of JSON without the newline."""
    return json.dumps(asdict(value))


def write_lines(path: Path, values: Iterable[Request | Heard | Parked]) -> None:
    path.write_text("".join(line(value) + "\n" for value in values), encoding="utf-8")


def read_lines(path: Path, kind: type[_Line]) -> list[_Line]:
    with path.open(encoding="utf-8") as lines:
        return [kind(**json.loads(one)) for one in lines]
