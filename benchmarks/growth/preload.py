# SPDX-License-Identifier: Apache-2.0
"""Databases as a worker leaves them after a long run, written through the store."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from benchmarks.workload import NODE, RESOURCE, instance
from tracker_worker.domain import commands, events
from tracker_worker.domain.allocation import CALLER, FINISHED, Allocation
from tracker_worker.domain.decide import decide
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.instance import read_instance
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.resources import ZERO
from tracker_worker.ids import NewIds
from tracker_worker.notifications.render import render
from tracker_worker.store.base import Commit, Store
from tracker_worker.store.sql.store import SQLStore

_NOW = 1_800_000_000_000_000
_CHUNK = 2000
_TOPIC = "notifications"


def allocations(database: str, hosts: Sequence[str], count: int, at: int = _NOW) -> None:
    """Write one node on each host, with ``count`` finished claims whose notifications are sent and pruned. All began ``at``
    (microseconds)."""
    with _nodes(database, hosts, at) as (store, ledgers):
        rng = random.Random(count)
        new_id = NewIds(rng.randbytes)
        for ledger in ledgers:
            for first in range(0, count, _CHUNK):
                for number in range(first, min(first + _CHUNK, count)):
                    ledger.apply(events.ClaimBegun(at=at, allocation=_allocation(rng, number, new_id(at), at)))
                store.commit(Commit(ledgers=[ledger], cursors={(ledger.stream_id, _TOPIC): ledger.sequence}))
                ledger.committed()


def backlog(database: str, host: str, count: int) -> None:
    """Write a node with one finished claim and ``count`` unpublished notifications of that claim."""
    with _nodes(database, [host], _NOW) as (store, (ledger,)):
        rng = random.Random(1)
        new_id = NewIds(rng.randbytes)
        claimed = events.ClaimBegun(at=_NOW, allocation=_allocation(rng, 1, new_id(_NOW), _NOW))
        ledger.apply(claimed)
        one = render(claimed, ledger, message_id=new_id(_NOW))
        for first in range(0, count, _CHUNK):
            more = range(ledger.sequence + 1, ledger.sequence + 1 + min(_CHUNK, count - first))
            ledger.sequence = more[-1]
            ledger.generation = ledger.next_generation
            notifications = [replace(one, sequence=number, message_id=new_id(_NOW)) for number in more]
            store.commit(Commit(ledgers=[ledger], notifications=notifications))
            ledger.committed()


def published(database: str, host: str) -> int:
    """The sequence up to which the broker has confirmed the notifications of a host's only node, as the store records it."""
    store = SQLStore(database)
    try:
        (stream,) = store.streams(host)
        return max(stream.cursors.values())
    finally:
        store.stop()


@contextmanager
def _nodes(database: str, hosts: Sequence[str], at: int) -> Iterator[tuple[Store, list[NodeLedger]]]:
    store = SQLStore(database)
    store.start()
    ledgers = []
    for name in hosts:
        host_id = store.register_host(name, topic="tracker", version="benchmark", now=at)
        store.create_node(host_id, NODE)
        store.open_cursors(name, [_TOPIC])
        host = store.load_host(name)
        assert host is not None
        ledgers.append(_enabled(store, host, at))
    yield store, ledgers
    store.stop()


def _enabled(store: Store, host: HostLedger, at: int) -> NodeLedger:
    inventory = read_inventory(RESOURCE, ZERO)
    decision = decide(host, commands.ReportNode(node=NODE, inventory=inventory), at, NewIds(random.Random(0).randbytes))
    ledger = host.node(NODE)
    for changed, event in decision.events:
        changed.apply(event)
    store.commit(Commit(ledgers=[ledger], cursors={(ledger.stream_id, _TOPIC): ledger.sequence}))
    ledger.committed()
    return ledger


def _allocation(rng: random.Random, number: int, identity: str, at: int) -> Allocation:
    wanted = read_instance({**instance(rng, number), "vm_state": "active", "task_state": None})
    return Allocation(
        id=identity,
        claim_id=identity,
        instance=wanted,
        resources=wanted.resources,
        begun_at=at,
        expires_at=at,
        since=at,
        limit_source=CALLER,
        claim_state=FINISHED,
    )
