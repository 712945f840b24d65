# SPDX-License-Identifier: Apache-2.0
"""The store port: the methods with which the engine and the library keep ledgers.

Each method is one transaction: all of it happens, or nothing of it.

Raises StoreUnavailable (every method but ``start`` and ``stop``): the store cannot be reached, or gave up waiting. The caller
finds out by reading whether the transaction happened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.notifications.notification import Notification


class Conflict(Exception):
    """Another writer has changed the rows on which this commit was decided. Nothing was written; the caller reads the ledgers
    and decides again."""


class Unstorable(Exception):
    """The store cannot keep a value of this commit. Nothing was written, and the same commit would fail again."""


class InboxRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One inbox row: a message about a host whose effect is committed, and the reply to each copy of the message.
    ``received_at`` in microseconds."""

    unique_id: str
    host_id: int
    reply: bytes
    received_at: int


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one transaction. Of each ledger, the store writes the node and the allocations of ``touched``, on condition
    that the node still has the ledger's ``stored_generation``. ``cursors``: node id -> last sequence that the bus has
    confirmed."""

    ledgers: Sequence[NodeLedger] = ()
    notifications: Sequence[Notification] = ()
    inbox_rows: Sequence[InboxRow] = ()
    cursors: Mapping[int, int] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxBacklog:
    """The unconfirmed part of a node's outbox: the number of ``rows``, and ``oldest_at``, the time of the first row
    (microseconds; None: no row)."""

    node_id: int
    host: str
    node: str
    sequence: int
    cursor: int
    rows: int
    oldest_at: int | None


class Store(ABC):
    """``load_host`` reads a ledger, events change the ledger in memory, ``commit`` writes it. After a ``commit`` that raised,
    the ledgers in memory are worthless, and the caller reads them again."""

    @abstractmethod
    def start(self) -> None:
        """Make the store ready for use. Any thread.

        Raises ConfigurationError: the store cannot be reached or used, or its schema is missing or of another release.
        """

    @abstractmethod
    def stop(self) -> None:
        """Release every resource. Harmless without a start, and a second time. Any thread."""

    @abstractmethod
    def register_host(self, name: str, *, topic: str, version: str, now: int) -> int:
        """Create or refresh the service record of a host, and return the host's id. ``now`` in microseconds. Any thread."""

    @abstractmethod
    def host_names(self) -> list[str]:
        """Return the names of the registered hosts, sorted. Any thread."""

    @abstractmethod
    def load_host(self, name: str) -> HostLedger | None:
        """Return one consistent view of a host's nodes; None: the host has no service record. Any thread."""

    @abstractmethod
    def create_node(self, host_id: int, name: str) -> None:
        """Create an empty node at generation 0 and sequence 0. A node that exists stays unchanged. Any thread."""

    @abstractmethod
    def generations(self, host_ids: Collection[int]) -> dict[int, int]:
        """Return node id -> generation, of all nodes of these hosts. Any thread."""

    @abstractmethod
    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        """Return unique_id -> reply, of those messages that have an inbox row. Any thread."""

    @abstractmethod
    def count_attempt(self, unique_id: str, now: int) -> int:
        """Count one more attempt at a message whose handling failed unexpectedly, and return the number of attempts. ``now`` in
        microseconds. Any thread."""

    @abstractmethod
    def commit(self, commit: Commit) -> None:
        """Write all of the commit. Any thread.

        Raises Conflict: a node has another generation, a message is answered already, an instance is charged to another node
        of the host, a sequence number is taken, or the store rolled the commit back in favour of another writer. Raises
        Unstorable: the store cannot keep a value.
        """

    @abstractmethod
    def cursors(self, host_id: int) -> dict[int, int]:
        """Return node id -> last sequence that the bus has confirmed, of all nodes of the host. Any thread."""

    @abstractmethod
    def outbox(self, node_id: int, *, after: int, limit: int) -> list[Notification]:
        """Return at most ``limit`` notifications of a node with a sequence greater than ``after``, in order. Any thread."""

    @abstractmethod
    def backlog(self) -> list[OutboxBacklog]:
        """Return the backlog of every node. Any thread."""

    @abstractmethod
    def take_lease(self, host_ids: Iterable[int], owner: str, *, now: int, until: int, force: bool = False) -> set[int]:
        """Take or renew the lease of each of these hosts whose lease is free, expired or held by ``owner``; with ``force``, of
        each of these hosts. Times in microseconds. Return the ids of the hosts whose lease ``owner`` holds now. Any thread."""

    @abstractmethod
    def release_lease(self, owner: str) -> None:
        """Release every lease of ``owner``. Any thread."""

    @abstractmethod
    def prune(self, host_id: int, *, answered_before: int, occurred_before: int, limit: int) -> int:
        """Delete at most about ``limit`` rows of each kind of one host: inbox rows that were received before
        ``answered_before``, and confirmed outbox rows that occurred before ``occurred_before``. Delete every count of attempts
        that is older than ``answered_before``. Times in microseconds. Return the number of deleted inbox rows and outbox rows.
        Any thread."""
