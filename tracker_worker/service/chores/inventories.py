# SPDX-License-Identifier: Apache-2.0
"""Reading inventories from the drivers.

Drivers are asked on threads of their own, at most one question per node at a time, and one for a host's list of nodes. What
a driver answers comes back as a command. A driver that hangs holds its node's audits and nothing else, unless it hangs for
as many nodes as there are threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from tracker_worker import threads
from tracker_worker.domain import commands
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.resources import Resources
from tracker_worker.errors import NodeNotFound

LOG = logging.getLogger(__name__)

_THREADS = 8


class Driver(Protocol):
    """The part of an inventory driver that is used here."""

    def get_available_nodes(self) -> Sequence[str]: ...

    def get_available_resource(self, nodename: str) -> Mapping[str, object] | None: ...


class Pool(Protocol):
    """The threads on which drivers are asked."""

    def start(self) -> None: ...

    def submit(self, function: Callable[[], None]) -> None: ...

    def stop(self) -> None: ...


@dataclass(slots=True)
class InventoryReport:
    """The answers of one host's driver: a command for each node that answered, and the errors of the other nodes."""

    host: str
    found: list[commands.ReportInventory] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


Done = Callable[[InventoryReport], None]


@dataclass(slots=True)
class _Reading:
    """One call of ``read``: ``unanswered`` questions are left."""

    report: InventoryReport
    done: Done
    node: str | None
    unanswered: int = 1


class Inventories:
    """``read`` may be called from any thread; ``done`` is called on a thread of the pool."""

    def __init__(self, drivers: Mapping[str, Driver], reserved: Resources, *, pool: Pool | None = None) -> None:
        """``drivers`` by host; ``reserved`` is kept of each node for the host itself."""
        self._drivers = drivers
        self._reserved = reserved
        self._pool = pool or threads.DaemonPool("tracker-inventory", _THREADS)
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, str | None], list[_Reading]] = {}  # (host, None): its list of nodes

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Ask no further question. A driver that hangs is left to end with the process."""
        self._pool.stop()

    def read(self, host: str, node: str | None, done: Done) -> None:
        """Ask the host's driver about ``node``, or about all of its nodes, and call ``done`` when all have answered.

        A question that an earlier call has asked and that is not answered is not asked again: both get its answer.
        """
        self._queue(host, None, _Reading(InventoryReport(host), done, node), lambda: self._list(host))

    def _queue(self, host: str, node: str | None, reading: _Reading, question: Callable[[], None]) -> None:
        with self._lock:
            waiting = self._asked.setdefault((host, node), [])
            waiting.append(reading)
            first = len(waiting) == 1
        if first:
            self._pool.submit(question)

    def _list(self, host: str) -> None:
        failed: Exception | None = None
        nodes: list[str] = []
        try:
            nodes = list(self._drivers[host].get_available_nodes())
        except Exception as error:  # noqa: BLE001 the driver's edge: reported, and asked again next time
            LOG.warning("inventory of host %s: the driver failed: %s: %s", host, type(error).__name__, error)
            failed = error
        with self._lock:
            waiting = self._asked.pop((host, None))
        for reading in waiting:
            wanted = nodes if reading.node is None else [name for name in nodes if name == reading.node]
            if failed is not None:
                reading.report.errors.append(failed)
            elif reading.node is not None and not wanted:
                reading.report.errors.append(NodeNotFound(host=host, node=reading.node))
            reading.unanswered += len(wanted)
            for name in wanted:
                self._queue(host, name, reading, partial(self._ask, host, name))
            self._answered(reading)

    def _ask(self, host: str, node: str) -> None:
        found: commands.ReportInventory | Exception
        try:
            resource = self._drivers[host].get_available_resource(node)
            found = commands.ReportInventory(node=node, inventory=read_inventory(resource, self._reserved))
        except Exception as error:  # noqa: BLE001 the driver's edge
            LOG.warning("inventory of node %s of host %s: %s: %s", node, host, type(error).__name__, error)
            found = error
        with self._lock:
            waiting = self._asked.pop((host, node))
        for reading in waiting:
            with self._lock:
                if isinstance(found, Exception):
                    reading.report.errors.append(found)
                else:
                    reading.report.found.append(found)
            self._answered(reading)

    def _answered(self, reading: _Reading) -> None:
        with self._lock:
            reading.unanswered -= 1
            finished = reading.unanswered == 0
        if finished:
            reading.done(reading.report)
