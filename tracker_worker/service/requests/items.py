# SPDX-License-Identifier: Apache-2.0
"""What the loop decides: requests from outside, and chores of the worker's own. Each item is about one host at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracker_worker.domain import commands
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.queries import StoredQuery
from tracker_worker.service.requests.methods import Audit, Operation, Ping
from tracker_worker.service.requests.pending import PendingRequest

AT_A_TIME = 32
"""Of a question about more hosts, so many are answered between two batches: that takes the loop about a millisecond."""


@dataclass(slots=True, kw_only=True, eq=False)
class Chore:
    """Commands of the worker's own for one host.

    ``done`` is called on the engine's thread after their commit, with the ledgers as they are then; ``failed`` instead when the
    commands cannot be decided. ``if_new``: of the commands, only those count that bring the inventory of a
    node of which nothing is known.
    """

    host: str
    commands: Sequence[commands.Command]
    done: Callable[[HostLedger], None] | None = None
    failed: Callable[[Exception], None] | None = None
    if_new: bool = False


@dataclass(slots=True, eq=False)
class Whole:
    """A request about several hosts, which ends when all of its parts are done. ``outcomes``: host -> the answer of its part,
    or the error; ``size``: the bytes of what is encoded of them. ``ended``: the request has ended before that, and its other
    parts are left out."""

    request: PendingRequest
    operation: Operation
    outcomes: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    size: int = 0

    def done(self) -> bool:
        """Whether every part has its outcome."""
        return len(self.outcomes) == len(self.operation.hosts)

    def answers(self) -> list[Any]:
        """The answers of the parts, in the order of the hosts. Raises the first error."""
        answers = [self.outcomes[host] for host in self.operation.hosts]
        for error in answers:
            if isinstance(error, Exception):
                raise error
        return answers


@dataclass(slots=True, eq=False)
class Part:
    """The share of one host in a request about several hosts. A conflict about one host repeats the part of that host only."""

    whole: Whole
    host: str

    @property
    def request(self) -> PendingRequest:
        return self.whole.request


Item = PendingRequest | Part | Chore


def divided(request: PendingRequest) -> Sequence[PendingRequest | Part]:
    """The items of a request: the request itself, or its parts if it is about several hosts."""
    operation = request.operation
    if operation is None or len(operation.hosts) < 2 or isinstance(operation.action, Ping):
        return (request,)
    whole = Whole(request, operation)
    return [Part(whole, host) for host in operation.hosts]


def host_of(item: Item) -> str | None:
    """The host that an item is about; None: the item needs no ledger."""
    if not isinstance(item, PendingRequest):
        return item.host
    operation = item.operation
    if operation is None or not operation.hosts or isinstance(operation.action, Ping):
        return None
    return operation.hosts[0]


def is_of_many(items: Sequence[Item]) -> bool:
    """Whether these items of a request are a question about so many hosts that it is answered a few hosts at a time."""
    return (
        len(items) > AT_A_TIME and isinstance(items[0], Part) and not isinstance(items[0].whole.operation.action, Audit)
    )


def request_of(item: Item) -> PendingRequest | None:
    """The request that an item belongs to; None: it is a chore."""
    if isinstance(item, PendingRequest):
        return item
    return item.request if isinstance(item, Part) else None


def is_alone(item: Item) -> bool:
    """Whether the item is decided by itself, after the commit of those before it: its answer is read from the store, and may be
    as large as an answer may be."""
    if not isinstance(item, PendingRequest) or item.operation is None:
        return False
    return isinstance(item.operation.action, StoredQuery)


def hosts_of(items: Iterable[Item]) -> set[str]:
    """The names of the hosts that these items are about."""
    return {host for item in items if (host := host_of(item)) is not None}
