# SPDX-License-Identifier: Apache-2.0
"""The part of the evidence that is in the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgpack
import msgspec

from tests.invariants.books import total
from tests.invariants.record import OutboxRow, Place, StoredAllocation, StoredNode
from tracker_worker.domain.allocation import Allocation
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import Stream
from tracker_worker.store.sql.store import SQLStore


def books(store: SQLStore) -> dict[Place, StoredNode]:
    """Every node of the store, and every name that a node had and none has now. Such a name has the reserve of another node, as
    has a node whose inventory is not known: it has no reserve, but another node may have had its name."""
    found: dict[Place, StoredNode] = {}
    left: dict[Place, Stream] = {}
    bare: list[Place] = []
    for name in sorted({*store.host_names(), *(stream.host for stream in store.left_streams())}):
        streams = {stream.id: stream for stream in store.streams(name)}
        for ledger in store.load_host(name) or ():
            zero = total()
            stream = streams.pop(ledger.stream_id)
            if ledger.inventory is None and not ledger.instances:
                bare.append((name, ledger.name))
            found[name, ledger.name] = StoredNode(
                generation=ledger.generation,
                sequence=ledger.sequence,
                reserved=ledger.inventory.reserved.to_dict() if ledger.inventory is not None else zero,
                # The store reports columns that differ from the sum, with their values.
                usage=(ledger.drift or ledger.usage).to_dict(),
                held={uuid: allocated(held) for uuid, held in ledger.allocations.items()},
                moving={key: allocated(held) for key, held in ledger.moving.items()},
                issued=_issued(store, stream),
                cursor=min(stream.cursors.values(), default=0),
            )
        left |= {(name, stream.node): stream for stream in streams.values()}
    reserved = max((node.reserved for node in found.values()), key=lambda vector: sum(vector.values()), default={})
    for place in bare:
        found[place] = replace(found[place], reserved=reserved, usage=reserved)
    for place, stream in left.items():
        issued = _issued(store, stream)
        found[place] = StoredNode(
            generation=issued[-1].payload["generation"] if issued else 0,
            sequence=stream.sequence,
            reserved=reserved,
            usage=reserved,
            held={},
            issued=issued,
            cursor=min(stream.cursors.values(), default=0),
        )
    return found


def _issued(store: SQLStore, stream: Stream) -> list[OutboxRow]:
    return [issued(row) for row in store.outbox(stream.id, after=0, limit=10_000_000)]


def allocated(held: Allocation) -> StoredAllocation:
    """An allocation as evidence."""
    return StoredAllocation(
        claim_id=held.claim_id, resources=held.resources.to_dict(), claim_state=held.claim_state, role=held.role
    )


def issued(row: Notification) -> OutboxRow:
    """A row of the outbox as evidence."""
    return OutboxRow(
        sequence=row.sequence,
        message_id=row.message_id,
        event_type=row.event_type,
        priority=row.priority,
        payload=msgspec.json.decode(row.payload),
    )


def recorded(store: SQLStore, unique_ids: Sequence[str]) -> dict[str, Mapping[str, Any] | None]:
    """The inbox rows of these messages."""
    found: dict[str, Mapping[str, Any] | None] = {}
    for start in range(0, len(unique_ids), 500):
        for unique_id, reply in store.answered(unique_ids[start : start + 500]).items():
            if not reply:
                found[unique_id] = None
            else:
                found[unique_id] = json.loads(reply) if reply[:1] == b"{" else msgpack.unpackb(reply)
    return found


@contextmanager
def opened(database_url: str) -> Iterator[SQLStore]:
    store = SQLStore(database_url)
    store.start()
    try:
        yield store
    finally:
        store.stop()
