# SPDX-License-Identifier: Apache-2.0
"""The store port: what the engine and the library need of a place that keeps ledgers.

Every method may be called from any thread, and each is one transaction: it happens as a whole or not at all. Each
raises
``StoreUnavailable`` when the store cannot be reached or gives up; whether it happened is then unknown until it is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.notifications.notification import Notification


class Conflict(Exception):
    """Somebody else has written what this commit was decided on: nothing happened, read again and decide again."""


class Unstorable(Exception):
    """Something in this commit cannot be kept, now or later: nothing happened, and it would fail again."""


class Answered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the inbox: a message about a host that has had its effect, and the reply to give to each copy of it."""

    unique_id: str
    host_id: int
    reply: bytes
    received_at: int


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction. Of ``ledgers`` it writes the node and the allocations of ``touched``, each only if the node
    still has its ``stored_generation``. ``cursors``: node id -> last sequence that the bus has confirmed."""

    ledgers: Sequence[NodeLedger] = ()
    notifications: Sequence[Notification] = ()
    answered: Sequence[Answered] = ()
    cursors: Mapping[int, int] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What of a node's outbox the bus has not confirmed: ``rows`` waiting, the first of them from ``oldest_at``
    (microseconds; None when there is none)."""

    node_id: int
    host: str
    node: str
    sequence: int
    cursor: int
    rows: int
    oldest_at: int | None


class Store(ABC):
    """A ledger is read with ``load_host``, changed in memory by events, and written with ``commit``; after a
    ``commit`` that raised, the ledgers in memory are worthless and are read again."""

    @abstractmethod
    def start(self) -> None:
        """Ready for use. Raises ConfigurationError: unreachable at start, unusable, or a schema that is behind."""

    @abstractmethod
    def stop(self) -> None:
        """Let go of what is held. Harmless when not started or stopped."""

    @abstractmethod
    def register_host(self, name: str, *, topic: str, version: str, now: int) -> int:
        """The service record of a host, made or refreshed. Returns the host's id."""

    @abstractmethod
    def host_names(self) -> list[str]:
        """The registered hosts in order of name."""

    @abstractmethod
    def load_host(self, name: str) -> HostLedger | None:
        """One consistent view of a host's nodes; None when it has no service record."""

    @abstractmethod
    def create_node(self, host_id: int, name: str) -> None:
        """A node with nothing in it at generation 0 and sequence 0. One that exists is left alone."""

    @abstractmethod
    def generations(self, host_ids: Collection[int]) -> dict[int, int]:
        """Node id -> generation, of all nodes of these hosts."""

    @abstractmethod
    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        """unique_id -> reply, of those that the inbox knows."""

    @abstractmethod
    def count_attempt(self, unique_id: str, now: int) -> int:
        """One more attempt at a message whose handling failed unexpectedly. Returns how many there have been."""

    @abstractmethod
    def commit(self, commit: Commit) -> None:
        """Write all of it. Raises Unstorable, and Conflict: a node has another generation, a message is answered already, an
        instance is charged to another node of the host, a sequence number is taken, or another writer was in the way."""

    @abstractmethod
    def cursors(self, host_id: int) -> dict[int, int]:
        """Node id -> last sequence that the bus has confirmed."""

    @abstractmethod
    def outbox(self, node_id: int, *, after: int, limit: int) -> list[Notification]:
        """At most ``limit`` notifications of a node behind sequence ``after``, in order."""

    @abstractmethod
    def backlog(self) -> list[Backlog]:
        """What is unconfirmed, for every node."""

    @abstractmethod
    def take_lease(self, host_ids: Iterable[int], owner: str, *, now: int, until: int, force: bool = False) -> set[int]:
        """Take or renew the lease of these hosts where it is free, expired or already ``owner``'s, or in any case with
        ``force``. Returns the hosts held."""

    @abstractmethod
    def release_lease(self, owner: str) -> None:
        """Free every lease of ``owner``."""

    @abstractmethod
    def prune(self, host_id: int, *, answered_before: int, occurred_before: int, limit: int) -> int:
        """Drop at most about ``limit`` rows of each kind of one host: inbox rows received before, and confirmed outbox rows
        that occurred before, these times; and every count of attempts as old as such inbox rows. Returns how many of the
        first two kinds were dropped."""
