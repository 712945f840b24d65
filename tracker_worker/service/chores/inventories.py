# SPDX-License-Identifier: Apache-2.0
"""Reading inventories: drivers are asked on threads of their own, at most one question per node at a time (and one for a
host's list of nodes), and what they say comes back as a command. A driver that hangs holds its node's audits and nothing
else, unless it does so for as many nodes as there are threads."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from tracker_worker.domain import commands
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.resources import Resources
from tracker_worker.errors import NodeNotFound

LOG = logging.getLogger(__name__)

_THREADS = 8


class Driver(Protocol):
    """What an audit needs of an inventory driver."""

    def get_available_nodes(self) -> Sequence[str]: ...

    def get_available_resource(self, nodename: str) -> Mapping[str, object] | None: ...


@dataclass(slots=True)
class Report:
    """What one audit of a host found: a command per node that answered, and what went wrong with the others."""

    host: str
    found: list[commands.ReportInventory] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


Done = Callable[[Report], None]


@dataclass(slots=True)
class _Audit:
    report: Report
    done: Done
    node: str | None
    left: int = 1


class Auditor:
    """``audit`` may be called from any thread; ``done`` is called on one of the auditor's."""

    def __init__(self, drivers: Mapping[str, Driver], reserved: Resources) -> None:
        self._drivers = drivers
        self._reserved = reserved
        self._questions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, str | None], list[_Audit]] = {}  # None: for the list of nodes

    def start(self) -> None:
        for number in range(_THREADS):
            thread = threading.Thread(target=self._run, name=f"tracker-inventory-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Ask no more questions. A driver that hangs is left behind: its thread ends with the process."""
        for _ in self._threads:
            self._questions.put(None)
        self._threads.clear()

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            question()

    def audit(self, host: str, node: str | None, done: Done) -> None:
        """Ask the host's driver about ``node``, or about all of its nodes, and call ``done`` when all have answered. What
        is still being asked by an earlier audit is not asked a second time: both get its answer."""
        self._queue(host, None, _Audit(Report(host), done, node), lambda: self._list(host))

    def _queue(self, host: str, node: str | None, audit: _Audit, question: Callable[[], None]) -> None:
        with self._lock:
            waiting = self._asked.setdefault((host, node), [])
            waiting.append(audit)
            first = len(waiting) == 1
        if first:
            self._questions.put(question)

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
        for audit in waiting:
            wanted = nodes if audit.node is None else [name for name in nodes if name == audit.node]
            if failed is not None:
                audit.report.errors.append(failed)
            elif audit.node is not None and not wanted:
                audit.report.errors.append(NodeNotFound(host=host, node=audit.node))
            audit.left += len(wanted)
            for name in wanted:
                self._queue(host, name, audit, partial(self._ask, host, name))
            self._answered(audit)

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
        for audit in waiting:
            with self._lock:
                if isinstance(found, Exception):
                    audit.report.errors.append(found)
                else:
                    audit.report.found.append(found)
            self._answered(audit)

    def _answered(self, audit: _Audit) -> None:
        with self._lock:
            audit.left -= 1
            finished = audit.left == 0
        if finished:
            audit.done(audit.report)
