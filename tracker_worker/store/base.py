# SPDX-License-Identifier: Apache-2.0
"""The store port: the methods with which the engine and the library keep ledgers.

Each method is one transaction: all of it happens, or nothing of it.

Raises StoreUnavailable (every method but ``start`` and ``stop``): the store cannot be reached, is full or read-only, or gave up
waiting. The caller finds out by reading whether the transaction happened. Raises HostLocked, a StoreUnavailable: the store
works, and another writer has held a row for too long.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import Move
from tracker_worker.domain.segments import InstanceUsage
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.exceptions import AnotherHistory, Conflict, HostLocked, StoreReplaced, Unstorable
from tracker_worker.store.history import HistoryStore
from tracker_worker.store.records import (
    CARETAKER,
    EVERY_TOPIC,
    LEASE_SECONDS,
    Commit,
    DeadLetterRow,
    History,
    HostRecord,
    InboxRow,
    NodeMove,
    OutboxBacklog,
    Progress,
    RefusalRow,
    Stream,
    StreamEnd,
    StreamPage,
    serving,
    standbys,
)

__all__ = (
    "CARETAKER",
    "LEASE_SECONDS",
    "serving",
    "standbys",
    "AnotherHistory",
    "EVERY_TOPIC",
    "Commit",
    "Conflict",
    "DeadLetterRow",
    "History",
    "HostLocked",
    "HostRecord",
    "InboxRow",
    "LockedHost",
    "LockedStore",
    "NodeMove",
    "OutboxBacklog",
    "Progress",
    "RefusalRow",
    "Store",
    "StoreReplaced",
    "Stream",
    "StreamEnd",
    "StreamPage",
    "Unstorable",
)

MOST_DEAD_LETTERS = 1000
MOST_DEAD_LETTER_BYTES = 64 << 20
"""The limits of the dead letters that a store keeps."""
NOT_CONFIGURED = (
    "notifications of %s/%s no longer go to topic %s, which is not configured; it has those up to number %d"
)
"""The log line of ``open_cursors`` about a topic that is removed."""


class LockedHost(ABC):
    """A host that no other writer changes until the block of ``Store.locked`` ends. Belongs to the thread of the block, which
    calls no other method of the store."""

    ledger: HostLedger
    """The host's ledgers, read after the host was locked."""

    @abstractmethod
    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        """Return unique_id -> reply, of those messages that have an inbox row now."""

    @abstractmethod
    def commit(self, commit: Commit) -> None:
        """Write all of the commit and end the transaction; call it once at most.

        Raises Unstorable, StoreReplaced. Raises Conflict: as ``Store.commit``, but never for the nodes of this host.
        """


class LockedStore(ABC):
    """A store in which no other writer changes a node until the block of ``Store.all_locked`` ends. Belongs to the thread of
    the block, which calls no other method of the store."""

    hosts: Sequence[HostLedger]
    """The ledgers of all hosts, by name, read after they were locked."""

    @abstractmethod
    def commit(self, commit: Commit) -> None:
        """Write all of the commit and end the transaction; call it once at most. Raises as ``Store.commit``."""


class Store(HistoryStore):
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

    def pool(self) -> str:
        """Say how the connections to the database are used, for people. Any thread."""
        return "no connections"

    @abstractmethod
    def check(self) -> None:
        """Look whether the database is still the one that was started. Only a database that is a file can be another one.
        Any thread.

        Raises StoreReplaced.
        """

    @abstractmethod
    def time(self) -> int:
        """Return the time of the database in microseconds since the epoch. Any thread."""

    @abstractmethod
    def histories(self) -> list[History]:
        """Return the histories of this database, the present one last. Any thread."""

    @abstractmethod
    def register_host(self, name: str, *, topic: str, version: str, now: int) -> int:
        """Create or refresh the service record of a host, and return the host's id. ``now`` in microseconds. Any thread."""

    @abstractmethod
    def host_names(self) -> list[str]:
        """Return the names of the registered hosts, sorted. Any thread."""

    @abstractmethod
    def hosts(self) -> list[HostRecord]:
        """Return the service records, by name. Any thread."""

    @abstractmethod
    def host(self, name: str) -> HostRecord | None:
        """Return the service record of this host, without a look at the others; None: there is none. Any thread."""

    @abstractmethod
    def renew_token(self, host_id: int, token: str) -> None:
        """Make ``token`` the present token of a host, and the one that was present the previous one. A token that is present
        already changes nothing. Any thread."""

    def rename_host(self, host_id: int, name: str) -> None:
        """Give a host that has no nodes another name. The nodes of a host are on streams with its name: who renames a host
        with nodes puts ``host_names`` into a commit with their ``moves``. Any thread.

        Raises Conflict: another host has the name, or the host has nodes.
        """
        self.commit(Commit(host_names={host_id: name}, verified={host_id: {}}))

    @abstractmethod
    def forget_host(self, host_id: int) -> None:
        """Delete the service record of a host, its nodes and its inbox. The streams stay. Harmless if there is no such host.
        Any thread.

        Raises Conflict: an instance is charged to the host.
        """

    @abstractmethod
    def load_host(self, name: str) -> HostLedger | None:
        """Return one consistent view of a host's nodes; None: the host has no service record. Any thread."""

    @abstractmethod
    def refreshed(
        self, known: Mapping[str, Mapping[int, int]], *, ledger_id: str | None = None
    ) -> dict[str, HostLedger]:
        """Compare hosts with the store and load those that differ, all in one view. ``known``: host name -> node id ->
        generation, as the caller has them; empty where it has nothing. ``ledger_id``: the history of what it has, in which a
        generation is another one than in the present history; None: any history. Return host name -> ledgers, of the hosts
        that differ and have a service record. Any thread.

        Raises StoreReplaced: see ``check``."""

    @abstractmethod
    def locked(self, host_id: int) -> AbstractContextManager[LockedHost]:
        """Lock a registered host for a block of code: no other writer changes its nodes until the block ends. A block that
        ends without ``LockedHost.commit`` changes nothing. Any thread.

        Raises LookupError: no host has this id.
        """

    @abstractmethod
    def all_locked(self) -> AbstractContextManager[LockedStore]:
        """The same for all hosts: every other writer waits, and so does this one for those that have begun. Any thread."""

    def together(self) -> AbstractContextManager[None]:
        """Let ``create_node`` and ``open_cursors``, called by this thread in the block, be one transaction where the store has
        them: if the block raises, nothing of them may have happened. Others wait for it, so that a block is to be short. Any
        thread."""
        return nullcontext()

    @abstractmethod
    def create_node(self, host_id: int, name: str) -> None:
        """Create an empty node on the stream of its name. A new name begins at sequence 0 and generation 0; another one goes
        on where the last node has left it or was forgotten. A node that exists stays unchanged. Any thread."""

    @abstractmethod
    def missing_nodes(self) -> list[tuple[str, str]]:
        """Return host name and node name of each node that its driver does not list and that is charged, in their order. Any
        thread."""

    @abstractmethod
    def stream_id(self, host: str, node: str) -> int:
        """Return the id of the stream of these names, and make the stream, at sequence 0, where there is none. Any thread."""

    @abstractmethod
    def allocations(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        project_id: str | None = None,
        role: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int,
    ) -> list[tuple[str, str, Allocation]]:
        """Return at most ``limit`` allocations with the names of their host and node, in the order of (uuid of the instance,
        id) by code points, behind the place ``after`` in this order. Each of the other arguments leaves only what has it. Any
        thread."""

    @abstractmethod
    def incoming(self, uuids: Collection[str]) -> dict[str, tuple[str, str]]:
        """Return, of those of these instances that are incoming somewhere for a move, uuid -> host and node. Any thread."""

    @abstractmethod
    def moves(self, *, move_id: str | None = None, open: bool | None = None, limit: int) -> list[tuple[str, Move]]:
        """Return at most ``limit`` records of moves with the names of the hosts that keep them, in the order of (id, host).
        Each of the other arguments leaves only what has it. Any thread."""

    @abstractmethod
    def untold_moves(
        self, *, kind: str | None = None, from_host: str | None = None, after: str = "", limit: int
    ) -> list[Move]:
        """Return at most ``limit`` moves in one of the states ``KEPT`` of which the host that they leave has no record, though
        it is another host of this ledger and has nodes: the destination's records, with an id behind ``after``, by id. Each of
        the other arguments leaves only what has it. Any thread."""

    @abstractmethod
    def billed(self, node_id: int, *, beginning: int, ending: int) -> dict[str, int]:
        """Return the uuids of the instances of which a node has segments that a period tells (times in microseconds), and how
        many each has. What is charged now has no segment yet. Any thread."""

    @abstractmethod
    def usage(self, node_id: int, uuids: Collection[str], *, beginning: int, ending: int) -> list[InstanceUsage]:
        """Return what a node was charged for these instances in a period, as far as its decisions are stored: by uuid, in one
        view. Any thread."""

    @abstractmethod
    def closed_periods(self, node_id: int, *, since: int, until: int) -> list[tuple[int, int]]:
        """Return the beginning and the ending of each closed period of a node that has a part between two times, in their
        order. Any thread."""

    @abstractmethod
    def progress(self, hosts: Collection[str]) -> Progress:
        """Return how far the hosts of these names have got, in one view; also the streams of nodes that they have no more. Any
        thread."""

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

        Raises Conflict: the present history is another one, a node has another generation, a verified host has other nodes or
        generations, a message is answered already, an instance is charged to another node of the host, a sequence number is
        taken, the history has a successor already, a name or a stream has another owner, a dropped node is charged, or the
        store rolled the commit back in favour of another writer. Raises Unstorable: the commit failed for any other reason
        while the store works, usually because the store cannot keep a value. Raises StoreReplaced, after the commit or instead
        of what failed: see ``check``."""

    @abstractmethod
    def probe(self, host_id: int, now: int) -> None:
        """Write ``last_seen_at`` of a host, in microseconds, to find out whether the store can write. Any thread."""

    @abstractmethod
    def streams(self, host: str) -> list[Stream]:
        """Return the streams of a host name, also those of nodes that it has no more, by node name. Any thread."""

    @abstractmethod
    def streams_without_host(self) -> list[str]:
        """Return the host names that have no service record, and a stream with events that are not confirmed: those of hosts
        that were renamed or forgotten, sorted. Any thread."""

    @abstractmethod
    def left_streams(self) -> list[Stream]:
        """Return the streams of all names that no node has now, without their cursors, by host and node. Any thread."""

    @abstractmethod
    def open_cursors(self, host: str, topics: Sequence[str]) -> list[Stream]:
        """Make the cursors of all streams of a host name those of ``topics``, and return the streams as ``streams`` does. Any
        thread.

        A new stream starts at 0, so that everything in its outbox is published. A topic that is new for a stream with other
        topics starts at the stream's last sequence. The cursors of other topics are removed; a stream whose last topic is
        removed remembers where it was, and its next topics start there, but not before what is left of its outbox.
        """

    @abstractmethod
    def mark_refused(self, stream_id: int, topic: str, sequence: int, reason: str | None) -> None:
        """Keep that the broker refuses this notification on this topic, for ``backlog``; a ``reason`` of None takes it back.
        Any thread. Raises Unstorable."""

    @abstractmethod
    def outbox(self, stream_id: int, *, after: int, limit: int, max_bytes: int = sys.maxsize) -> list[Notification]:
        """Return notifications of a stream with a sequence greater than ``after``, in order: at most ``limit``, and no more
        than whose payloads together have ``max_bytes``, but at least one if there is one. Any thread."""

    @abstractmethod
    def stream_page(self, host: str, node: str, *, after: int, limit: int, max_bytes: int) -> StreamPage | None:
        """Return what ``outbox`` returns of the stream of these names, and how far the stream goes, in one view; None: there
        is no such stream. Any thread."""

    @abstractmethod
    def backlog(self) -> list[OutboxBacklog]:
        """Return the backlog of every cursor, by host, node and topic. Any thread."""

    @abstractmethod
    def keep_dead_letters(self, rows: Sequence[DeadLetterRow]) -> int:
        """Keep dead letters, and drop the oldest ones over MOST_DEAD_LETTERS or MOST_DEAD_LETTER_BYTES, but not the last one.
        Return the number of those that were dropped. Any thread. Raises Unstorable."""

    @abstractmethod
    def dead_letters(self, limit: int) -> list[tuple[int, DeadLetterRow]]:
        """Return the oldest ``limit`` dead letters with their ids, oldest first. An id is never used again. Any thread."""

    @abstractmethod
    def drop_dead_letters(self, ids: Collection[int]) -> None:
        """Delete the dead letters with these ids. Any thread."""

    @abstractmethod
    def take_lease(
        self,
        host_ids: Iterable[int],
        owner: str,
        *,
        now: int,
        until: int,
        force: bool = False,
        blocked_since: int | None = None,
        serves: Collection[int] | None = None,
    ) -> set[int]:
        """Take or renew the lease of each of these hosts whose lease is free, expired or held by ``owner``; with ``force``, of
        each of these hosts. A lease is expired, too, that ends half as long again after ``until`` as ``until`` is after
        ``now``: the clock that it was taken by was wrong. A lease of a CARETAKER is free for every other owner.
        ``blocked_since``: since when the broker takes no messages of ``owner``; None: it takes them. ``serves``: the ids of all
        hosts that ``owner`` serves until ``until``, as the active worker or as a standby; None: as it said before. Times in
        microseconds. Return the ids of the hosts whose lease ``owner`` holds now. Any thread."""

    @abstractmethod
    def release_lease(self, owner: str) -> None:
        """Release every lease of ``owner``, which serves no host any more. Any thread."""

    @abstractmethod
    def prune(self, host_id: int, *, answered_before: int, occurred_before: int, limit: int) -> int:
        """Delete at most about ``limit`` rows of each kind of one host: inbox rows that were received before
        ``answered_before``, and outbox rows that occurred before ``occurred_before`` and are confirmed on every topic of
        their stream; those of streams without a service record count as rows of every host. Of each node, segments and periods
        that it no longer keeps (``Periods.kept_from``). Delete every count of attempts that is older than ``answered_before``.
        Times in microseconds. Return the number of deleted inbox rows, outbox rows and segments. Any thread."""
