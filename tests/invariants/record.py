# SPDX-License-Identifier: Apache-2.0
"""What is known after a run: what clients were told, what a listener received, what was parked, what the store holds.

All of it is plain data: it can be written down as JSON lines, read by another process, and doctored by a test. Times are
seconds of the machine's monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

# How a request ended for the one who sent it.
RESULT = "result"  # a call was answered
ERROR = "error"  # a call was refused
SENT = "sent"  # the broker has confirmed a cast
UNKNOWN = "unknown"  # no answer in time, or a connection was lost while it was sent

Place = tuple[str, str]
"""Host and node."""

Vector = Mapping[str, int]
"""Resource class -> amount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One message that was sent, and how that ended. Requests with the same ``unique_id`` are copies of one message.

    ``host`` is whose topic it was sent to, None for the shared topic. ``error`` is the stable code, or the name of the
    class for an error that has none; ``facts`` are what the error carried.
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
        """The host that it is about."""
        return self.host if self.host is not None else self.args.get("host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One notification as it arrived in a queue. Its place among those of the same queue is its order of arrival."""

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
    """One message of the dead-letter queue."""

    unique_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAllocation:
    """One allocation of the store."""

    resources: Vector
    claim_state: str


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
    """One node of the store. ``usage`` are its columns, as a scheduler reads them with SQL."""

    generation: int
    sequence: int
    reserved: Vector
    usage: Vector
    held: Mapping[str, StoredAllocation]
    issued: Sequence[OutboxRow]
    cursor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """``inbox``: unique_id -> what the store has recorded for its copies, ``{"result", "failure"}`` for a call and None
    for a cast."""

    requests: Sequence[Request]
    heard: Sequence[Heard]
    parked: Sequence[Parked]
    nodes: Mapping[Place, StoredNode]
    inbox: Mapping[str, Mapping[str, Any] | None]


_Line = TypeVar("_Line", Request, Heard, Parked)


def line(value: Request | Heard | Parked) -> str:
    """One line of JSON, without its end."""
    return json.dumps(asdict(value))


def write_lines(path: Path, values: Iterable[Request | Heard | Parked]) -> None:
    path.write_text("".join(line(value) + "\n" for value in values), encoding="utf-8")


def read_lines(path: Path, kind: type[_Line]) -> list[_Line]:
    with path.open(encoding="utf-8") as lines:
        return [kind(**json.loads(one)) for one in lines]
