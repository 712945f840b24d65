# SPDX-License-Identifier: Apache-2.0
"""Reading inventories from the drivers.

Drivers are asked on threads of their own, at most one question per node at a time, and one for a host's list of nodes. What
a driver answers comes back as a command. Whoever asks while a question is being answered waits for the next answer, because
the driver may have looked already. A driver that hangs holds the audits of its node, or of its host if it hangs in the list of
nodes, and nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from tracker_worker import threads
from tracker_worker.domain import commands
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.resources import Resources
from tracker_worker.errors import NodeNotFound

LOG = logging.getLogger(__name__)

# So many questions are asked at a time; a driver that has not answered for so long gives its place to another question.
_QUESTIONS = 32
_PATIENCE_SECONDS = 30.0


class Driver(Protocol):
    """The part of an inventory driver that is used here."""

    def get_available_nodes(self) -> Sequence[str]: ...

    def get_available_resource(self, nodename: str) -> Mapping[str, object] | None: ...


class Pool(Protocol):
    """The threads on which drivers are asked. A function that hangs must not keep others from being run for ever."""

    def start(self) -> None: ...

    def submit(self, function: Callable[[], None]) -> None: ...

    def stop(self) -> None: ...


@dataclass(slots=True)
class InventoryReport:
    """The answers of one host's driver: a command for each node that answered, and the errors of the other nodes."""

    host: str
    found: list[commands.ReportNode] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


Done = Callable[[InventoryReport], None]
Found = Callable[[str, commands.ReportNode], None]
"""Called with the host and the command for a node that has answered."""


@dataclass(slots=True, eq=False)
class _Reading:
    """One call of ``read`` or ``refresh``: ``unanswered`` questions are left."""

    report: InventoryReport
    node: str | None
    found: Found | None
    done: Done | None
    unanswered: int = 1


class Inventories:
    """``read`` and ``refresh`` may be called from any thread; ``found`` and ``done`` are called on a thread of the pool."""

    def __init__(self, drivers: Mapping[str, Driver], reserved: Resources, *, pool: Pool | None = None) -> None:
        """``drivers`` by host; ``reserved`` is kept of each node for the host itself."""
        self._drivers = drivers
        self._reserved = reserved
        self._pool = pool or threads.DaemonPool("tracker-inventory", _QUESTIONS, patience_seconds=_PATIENCE_SECONDS)
        self._lock = threading.Lock()
        # Who waits for the question that is to be asked next: by (host, node), or (host, None) for its list of nodes. A key is
        # here for as long as its question is queued or is being answered.
        self._waiting: dict[tuple[str, str | None], dict[Hashable, _Reading]] = {}

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Ask no further question. A driver that hangs is left to end with the process."""
        self._pool.stop()

    def read(self, host: str, node: str | None, done: Done, found: Found | None = None) -> None:
        """Ask the host's driver about ``node``, or about all of its nodes, and call ``done`` when all have answered, and
        ``found`` as each node answers."""
        reading = _Reading(InventoryReport(host), node, found, done)
        self._queue(host, None, reading, reading)

    def refresh(self, host: str, node: str | None, found: Found) -> None:
        """The same with nobody to wait for the end: however often this is called while a driver hangs, one question follows for
        each node and ``found``."""
        self._queue(host, None, (node, found), _Reading(InventoryReport(host), node, found, None))

    def _queue(self, host: str, node: str | None, key: Hashable, reading: _Reading) -> None:
        with self._lock:
            waiting = self._waiting.get((host, node))
            if waiting is not None:
                waiting.setdefault(key, reading)
                return
            self._waiting[host, node] = {key: reading}
        self._pool.submit(partial(self._ask, host, node))

    def _ask(self, host: str, node: str | None) -> None:
        """Ask one question for everyone who waits for it now, and another one for whoever has come by its end."""
        with self._lock:
            waiting, self._waiting[host, node] = self._waiting[host, node], {}
        if node is None:
            self._list(host, waiting)
        else:
            self._look(host, node, waiting)
        with self._lock:
            again = bool(self._waiting[host, node])
            if not again:
                del self._waiting[host, node]
        if again:
            self._pool.submit(partial(self._ask, host, node))

    def _list(self, host: str, waiting: Mapping[Hashable, _Reading]) -> None:
        failed: Exception | None = None
        nodes: list[str] = []
        try:
            nodes = list(dict.fromkeys(self._drivers[host].get_available_nodes()))
            if wrong := [name for name in nodes if not isinstance(name, str)]:
                raise TypeError(f"the name of a node is a string, not {wrong[0]!r}")
        except Exception as error:  # noqa: BLE001 the driver's edge: reported, and asked again next time
            LOG.warning("inventory of host %s: the driver failed: %s: %s", host, type(error).__name__, error)
            failed, nodes = error, []
        for key, reading in waiting.items():
            wanted = nodes if reading.node is None else [name for name in nodes if name == reading.node]
            if failed is not None:
                reading.report.errors.append(failed)
            elif reading.node is not None and not wanted:
                reading.report.errors.append(NodeNotFound(host=host, node=reading.node))
            reading.unanswered += len(wanted)
            for name in wanted:
                self._queue(host, name, key, reading)
            self._answered(reading)

    def _look(self, host: str, node: str, waiting: Mapping[Hashable, _Reading]) -> None:
        command: commands.ReportNode | None = None
        failed: Exception | None = None
        try:
            resource = self._drivers[host].get_available_resource(node)
            command = commands.ReportNode(node=node, inventory=read_inventory(resource, self._reserved))
        except Exception as error:  # noqa: BLE001 the driver's edge
            LOG.warning("inventory of node %s of host %s: %s: %s", node, host, type(error).__name__, error)
            failed = error
        for reading in waiting.values():
            with self._lock:
                if failed is not None:
                    reading.report.errors.append(failed)
                if command is not None:
                    reading.report.found.append(command)
            if command is not None and reading.found is not None:
                reading.found(host, command)
            self._answered(reading)

    def _answered(self, reading: _Reading) -> None:
        with self._lock:
            reading.unanswered -= 1
            finished = reading.unanswered == 0
        if finished and reading.done is not None:
            reading.done(reading.report)
