# SPDX-License-Identifier: Apache-2.0
"""Helpers of the tracker's tests: a clock, drivers, trackers, and stores that fail on demand."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any

from oslo_config import cfg

from tests.support.builders import HOST, NODE, NOW, driver_resource_dict
from tests.support.deadline import SECONDS
from tracker_worker.conf import tracker as options
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.library.fairlock import FairLock
from tracker_worker.library.tracker import ResourceTracker
from tracker_worker.store.base import Commit, Store
from tracker_worker.store.memory import MemoryStore
from tracker_worker.store.sql.store import SQLStore

CONTEXT = {"project_id": "project-of-context", "user_id": "user-of-context"}


class Clock:
    """Seconds since the epoch; a test sets the time."""

    def __init__(self) -> None:
        self.at = NOW / SECOND

    def __call__(self) -> float:
        return self.at


def conf(**values: Any) -> cfg.ConfigOpts:
    """A separate ConfigOpts with these options of [tracker]."""
    made = cfg.ConfigOpts()
    made.register_opts(options.OPTIONS, group=options.GROUP)
    for name, value in values.items():
        made.set_override(name, value, group=options.GROUP)
    return made


def driver(*nodes: str) -> FakeDriver:
    """A driver whose nodes, by default node-1, have the capacity of ``driver_resource_dict``."""
    return FakeDriver(HOST, conf(), nodes={node: driver_resource_dict() for node in nodes or (NODE,)})


def audited(
    driven: FakeDriver | None = None,
    *,
    node: str | None = None,
    store: Store | None = None,
    clock: Clock | None = None,
    **values: Any,
) -> ResourceTracker:
    """A tracker of node-1 after its first audit; ``values`` are options."""
    tracker = ResourceTracker(
        HOST, driven or driver(), node=node, store=store, conf=conf(**values), clock=clock or Clock()
    )
    tracker.update_available_resource(CONTEXT)
    return tracker


def picture(tracker: ResourceTracker) -> dict[str, Any]:
    """All public state of a tracker."""
    return {
        "disabled": tracker.disabled,
        "compute_node": tracker.compute_node,
        "claims": tracker.claims,
        "tracked_instances": tracker.tracked_instances,
        "stats": tracker.stats.to_dict(),
    }


def used(tracker: ResourceTracker) -> tuple[int, int, int]:
    """The used VCPU, MB and GB."""
    node = tracker.compute_node
    assert node is not None
    return node["vcpus_used"], node["memory_mb_used"], node["local_gb_used"]


def event_types(store: Store, node: str = NODE) -> list[str]:
    """The event types in the node's outbox, in order."""
    host = store.load_host(HOST)
    assert host is not None
    return [row.event_type for row in store.outbox(host.node(node).id, after=0, limit=10**9)]


class FailingMemoryStore(MemoryStore):
    """A store whose commit fails while ``failing``; with ``too_late``, the data is committed before the failure."""

    failing = False
    too_late = False

    def commit(self, commit: Commit) -> None:
        if self.failing and self.too_late:
            super().commit(commit)
        if self.failing:
            raise StoreUnavailable(reason="pulled the plug")
        super().commit(commit)


class FailingSQLStore(SQLStore):
    """A store on SQLite that fails like FailingMemoryStore."""

    failing = False
    too_late = False

    def commit(self, commit: Commit) -> None:
        if self.failing and not self.too_late:
            raise StoreUnavailable(reason="pulled the plug")
        super().commit(commit)
        if self.failing:
            raise StoreUnavailable(reason="pulled the plug")


def sqlite(path: Path) -> SQLStore:
    """Return a started store in this directory, which several threads may write to."""
    store = SQLStore(f"sqlite:///{path}/ledger.sqlite", write_lock=FairLock())
    store.start()
    return store


class Arrivals(deque[Any]):
    """A queue of waiters that signals each arrival."""

    def __init__(self) -> None:
        super().__init__()
        self._joined = threading.Semaphore(0)

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        self._joined.release()

    def next(self) -> None:
        """Wait until one more waiter has joined."""
        assert self._joined.acquire(timeout=SECONDS), "nobody came to wait"


def joined(*threads: threading.Thread) -> None:
    """Wait until the threads end by themselves; assert that they end in time."""
    for thread in threads:
        thread.join(SECONDS)
    assert not [thread.name for thread in threads if thread.is_alive()]
