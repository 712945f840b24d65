# SPDX-License-Identifier: Apache-2.0
"""What goes into a store and comes out of it, beside the ledgers. All of it is immutable; times are in microseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.values import SECOND
from tracker_worker.notifications.notification import Notification
from tracker_worker.wire.measured import Encoded, Fitting

EVERY_TOPIC = ""
"""In ``Commit.cursors``: all topics of a stream, and the place at which its next topics start while it has none."""


LEASE_SECONDS = 15
"""How long a lease lasts from its last renewal on."""
_LONGEST_LEASE = LEASE_SECONDS * SECOND * 3 // 2
CARETAKER = "#orphans"
"""How the owner of a lease ends who does the chores of a host that nobody serves. Whoever serves the host may take the
lease."""


class InboxRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One inbox row: a message about a host whose effect is committed, and the reply to each copy of the message.
    ``received_at`` in microseconds."""

    unique_id: str
    host_id: int
    reply: bytes
    received_at: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """One history of a database, from ``since`` (microseconds) to the next one; ``predecessor`` is the ledger_id of the one
    before, or None."""

    ledger_id: str
    since: int
    reason: str
    predecessor: str | None


class HostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The service record of a host. ``version`` is the release of the worker that started last, at ``started_at``.
    ``lease_owner``: the worker that has the host's lease, until ``lease_expires_at``; None: nobody. ``token`` and
    ``previous_token``: the last two that were put on the broker for the host (see ``Store.renew_token``). ``nodes`` counts
    the nodes that are not retired; ``instances`` counts what is charged to the host. ``workers``: name -> until when, of each
    worker that has said that it serves the host, as the active one or as a standby."""

    id: int
    name: str
    version: str
    started_at: int
    last_seen_at: int
    lease_owner: str | None
    lease_expires_at: int
    token: str | None
    previous_token: str | None
    nodes: int
    instances: int
    workers: Mapping[str, int]


def serving(record: HostRecord, now: int) -> str | None:
    """The worker that serves a host at ``now`` (microseconds), or None. A lease that ends much later than one that is taken now
    was taken by a clock that was wrong."""
    owner = record.lease_owner
    is_valid = now <= record.lease_expires_at <= now + _LONGEST_LEASE
    return owner if owner is not None and is_valid and not owner.endswith(CARETAKER) else None


def standbys(record: HostRecord, now: int) -> list[str]:
    """The workers that serve a host at ``now`` (microseconds) beside the one that has its lease, sorted."""
    active = serving(record, now)
    return sorted(name for name, until in record.workers.items() if until >= now and name != active)


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """The events of a name: those of the node that has the name now, after those of others that had it. ``sequence`` is the
    number of the last one, ``last_at`` its time. ``cursors``: topic -> last sequence that the bus has confirmed there.
    ``generation``: that of the last node that has left the name or was forgotten."""

    id: int
    host: str
    node: str
    sequence: int
    cursors: Mapping[str, int]
    last_at: int = 0
    generation: int = 0


class StreamPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some notifications of a stream, in order, in the history ``ledger_id``. ``first`` is the number of the oldest one that
    the outbox still has, or ``last`` + 1 if it has none; ``last`` is the number of the last one that was issued."""

    ledger_id: str
    first: int
    last: int
    notifications: Sequence[Notification]

    def told(self) -> Fitting:
        """The page as the RPC API returns it."""
        head = {"ledger_id": self.ledger_id, "first": self.first, "last": self.last}
        return Fitting(head, "notifications", (Encoded(notification.told()) for notification in self.notifications))


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the nodes and the streams of some hosts have got in the present history, ``ledger_id``. ``generations``: node
    id -> generation; ``sequences``: stream id -> number of the last event; ``cursors``: (stream id, topic) -> cursor."""

    ledger_id: str
    generations: Mapping[int, int]
    sequences: Mapping[int, int]
    cursors: Mapping[tuple[int, str], int]


class NodeMove(msgspec.Struct, frozen=True, kw_only=True):
    """A node gets this host, this name and this stream; what it is charged and its remembered deletions go with it. Where the
    host remembers the deletion of the same instance at another of its nodes already, that one stays."""

    node_id: int
    host_id: int
    name: str
    stream_id: int


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The last event of a stream, which no node of the commit has any more: its number, its time, and the generation of the
    node with it. The stream must have fewer events before."""

    stream_id: int
    sequence: int
    occurred_at: int
    generation: int


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one transaction. Of each ledger, the store writes the node, its stream, and what is ``touched`` and
    ``noted``, on condition that the node still has the ledger's ``stored_generation``.

    ``cursors``: (stream id, topic) -> last sequence that the bus has confirmed on the topic; a cursor that ``open_cursors`` has
    not made is ignored. The topic EVERY_TOPIC says that nothing is to be published up to the sequence. ``verified``: host
    id -> node id -> generation, of hosts that answers without a change rest on: the store must have exactly these nodes of the
    host, at these generations, before this commit. ``ledger_id``: the history of this commit, which must be the present one;
    None: whichever it is. ``history``: the history that this commit begins, whose predecessor must be the present one; no
    cursor is above its stream then.

    What follows happens before the ledgers are written, in this order. ``dropped_nodes``: the ids of nodes that are deleted
    with their remembered deletions; nothing may be charged to them. Their streams stay. ``host_names``: host id -> new name.
    ``ended_streams``: the streams that nodes have left. ``moves``: nodes that get another host, name or stream. Each of them is
    among ``ledgers`` as it is afterwards, with the host, the stream and the sequence that it has then. A caller that takes over
    the stream of a dropped node has the host of that node ``verified``.
    """

    ledger_id: str | None = None
    history: History | None = None
    ledgers: Sequence[NodeLedger] = ()
    notifications: Sequence[Notification] = ()
    inbox_rows: Sequence[InboxRow] = ()
    cursors: Mapping[tuple[int, str], int] = msgspec.field(default_factory=dict)
    verified: Mapping[int, Mapping[int, int]] = msgspec.field(default_factory=dict)
    dropped_nodes: Sequence[int] = ()
    host_names: Mapping[int, str] = msgspec.field(default_factory=dict)
    moves: Sequence[NodeMove] = ()
    ended_streams: Sequence[StreamEnd] = ()

    @property
    def rearranges(self) -> bool:
        """Whether nodes or hosts get another place or name."""
        return bool(self.dropped_nodes or self.host_names or self.moves or self.ended_streams)


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A dead letter that the broker does not take. ``properties`` and ``headers`` are encoded as they would have gone out;
    ``parked_at`` in microseconds."""

    host: str
    parked_at: int
    reason: str
    exchange: str
    routing_key: str
    properties: bytes
    headers: bytes
    body: bytes

    @property
    def size(self) -> int:
        """The bytes that count for MOST_DEAD_LETTER_BYTES."""
        texts = sum(len(text.encode()) for text in (self.host, self.reason, self.exchange, self.routing_key))
        return texts + len(self.properties) + len(self.headers) + len(self.body)


class RefusalRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request that was refused at ``at`` (microseconds) and made no event. ``id`` is its own, and larger than those of
    earlier ones; ``record`` is JSON, for the history; the other fields are what it is looked for by, '' where there is none."""

    id: str
    at: int
    host: str
    node: str
    instance_uuid: str
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxBacklog:
    """The part of a stream that is not confirmed on one topic: the number of ``rows``, and ``oldest_at``, the time of
    the first row (None: no row). ``refused_sequence``: the first of these rows if the broker refuses it, and why.
    ``blocked_since``: since when the broker takes no messages, as the holder of the host's lease said last. Times are in
    microseconds."""

    stream_id: int
    host: str
    node: str
    topic: str
    sequence: int
    cursor: int
    rows: int
    oldest_at: int | None
    refused_sequence: int | None = None
    refused_reason: str | None = None
    blocked_since: int | None = None
