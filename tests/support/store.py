# SPDX-License-Identifier: Apache-2.0
"""The fixtures and helpers of the store suite."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from tests.support.builders import HOST, NOW, inventory, node_name, snapshot
from tracker_worker.domain.commands import Command, ReportNode
from tracker_worker.domain.decide import decide
from tracker_worker.domain.events import UNPUBLISHED
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.ids import uuid7
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import Commit, InboxRow, Store, Stream

ALL = 10**9
TOPIC = "notifications"
_numbers = itertools.count(1)  # of the ids that writers make: no two are the same, as in a store


class StoreCase(abc.ABC):
    """The base of the store suite. An implementation provides a started, empty store, and a second one on the same data."""

    @pytest.fixture
    @abc.abstractmethod
    def store(self) -> Store:
        """A started, empty store."""

    @pytest.fixture
    @abc.abstractmethod
    def second(self, store: Store) -> Store:
        """A store that shares only the data with ``store``."""


class Writer:
    """Uses a store as the engine does: reads, changes and commits ledgers with one notification for each event."""

    def __init__(self, store: Store, host: str = HOST) -> None:
        self.store = store
        self.host = load(store, host)
        self.notifications: list[Notification] = []

    @classmethod
    def on(cls, store: Store, host: HostLedger) -> Writer:
        """A writer on ledgers that were read otherwise."""
        writer = cls.__new__(cls)
        writer.store, writer.host, writer.notifications = store, host, []
        return writer

    def __getitem__(self, node: str) -> NodeLedger:
        return self.host.node(node)

    def put(self, command: Command, now: int = NOW) -> Writer:
        """Decide and apply ``command`` without a commit."""
        before = {ledger.id: ledger.sequence for ledger in self.host}
        decision = decide(self.host, command, now, lambda at: uuid7(at, next(_numbers)))
        for ledger, event in decision.events:
            ledger.apply(event)
            if not isinstance(event, UNPUBLISHED):
                before[ledger.id] += 1
                self.notifications.append(note(ledger, before[ledger.id], event_type=type(event).__name__))
        return self

    def made(self, *answered: InboxRow, cursors: dict[int, int] | None = None) -> Commit:
        """A commit of everything that was put. ``cursors``: stream id -> sequence, on TOPIC."""
        return Commit(
            ledgers=[ledger for ledger in self.host if ledger.dirty],
            notifications=self.notifications,
            inbox_rows=answered,
            cursors={(stream_id, TOPIC): sequence for stream_id, sequence in (cursors or {}).items()},
        )

    def commit(self, *answered: InboxRow, cursors: dict[int, int] | None = None) -> Writer:
        commit = self.made(*answered, cursors=cursors)
        self.store.commit(commit)
        for ledger in commit.ledgers:
            ledger.committed()
        self.notifications = []
        return self


def settle(store: Store, *, host: str = HOST, nodes: int = 2) -> Writer:
    """Create a host whose nodes ``node-1`` ... have reported their inventory: generation 1, sequence 1, and a cursor for TOPIC
    at 0."""
    host_id = register(store, host)
    names = [node_name(number) for number in range(1, nodes + 1)]
    for name in names:
        store.create_node(host_id, name)
    store.open_cursors(host, [TOPIC])
    writer = Writer(store, host)
    for name in names:
        writer.put(ReportNode(node=name, inventory=inventory()))
    return writer.commit()


def register(store: Store, host: str = HOST) -> int:
    return store.register_host(host, topic="tracker", version="1.0", now=NOW)


def cursors(store: Store, host: str = HOST) -> dict[tuple[int, str], int]:
    """(stream id, topic) -> cursor, of a host name."""
    return flat(store.streams(host))


def flat(streams: Sequence[Stream]) -> dict[tuple[int, str], int]:
    """(stream id, topic) -> cursor, of these streams."""
    return {(stream.id, topic): sequence for stream in streams for topic, sequence in stream.cursors.items()}


def load(store: Store, host: str = HOST) -> HostLedger:
    loaded = store.load_host(host)
    assert loaded is not None
    return loaded


def note(ledger: NodeLedger, sequence: int, *, at: int = NOW, event_type: str = "claim.begun") -> Notification:
    return Notification(
        stream_id=ledger.stream_id,
        host=ledger.host,
        node=ledger.name,
        sequence=sequence,
        event_type=event_type,
        priority="INFO",
        payload=f'{{"sequence": {sequence}, "name": "Žofie 🦊"}}'.encode(),
        occurred_at=at,
        message_id=uuid7(at, ledger.stream_id << 32 | sequence),
        asked=b'{"worker":"w"}',
    )


def answer(unique_id: str = "u-1", *, host_id: int = 1, at: int = NOW) -> InboxRow:
    reply = b'{"to": "' + unique_id.encode() + b'", "\xc3\xa9": null}'
    return InboxRow(unique_id=unique_id, host_id=host_id, reply=reply, received_at=at)


def snapshots(host: HostLedger) -> dict[str, dict[str, Any]]:
    return {ledger.name: snapshot(ledger) for ledger in host}


def picture(store: Store, *unique_ids: str) -> dict[str, Any]:
    """Everything that can be read from a store; from the inbox, the rows of these messages."""
    hosts = {name: load(store, name) for name in store.host_names()}
    return {
        "ledgers": {name: snapshots(host) for name, host in hosts.items()},
        "streams": {name: store.streams(name) for name in hosts},
        "outbox": {
            stream.id: store.outbox(stream.id, after=0, limit=ALL) for name in hosts for stream in store.streams(name)
        },
        "backlog": {(row.stream_id, row.topic): row for row in store.backlog()},
        "hosts": store.hosts(),
        "histories": store.histories(),
        "answered": store.answered(unique_ids),
    }


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run each function in its own thread, all from the same moment, and return the results in order.

    Raises the exception of the first function in order that raised.
    """
    together = Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        together.wait(timeout=30)
        return work()

    with ThreadPoolExecutor(max_workers=len(works)) as pool:
        futures = [pool.submit(run, work) for work in works]
        return [future.result(timeout=60) for future in futures]


def uuids(ledgers: Sequence[NodeLedger]) -> list[str]:
    return sorted(uuid for ledger in ledgers for uuid in ledger.allocations)
