# SPDX-License-Identifier: Apache-2.0
"""Reading inventories from the drivers.

Drivers are asked on threads of their own, at most one question per node at a time, and one for a host's list of nodes. The
hosts take turns, so that a host with many slow nodes delays no other host. What a driver answers comes back as a command, and
so does its failure. Whoever asks while a question is being answered waits for the next answer, because the driver may have
looked already. A driver that hangs holds the audits of its node, or of its host if it hangs in the list of nodes, and nothing
else; it counts as failed until it answers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracker_worker import threads
from tracker_worker.domain import commands
from tracker_worker.domain.inventory import read_inventory, read_node_name
from tracker_worker.domain.resources import Resources
from tracker_worker.errors import InvalidInput, NodeNotFound
from tracker_worker.text import printable

LOG = logging.getLogger(__name__)

# So many questions are asked at a time; a driver that has not answered for so long gives its place to another question.
_QUESTIONS = 32
_PATIENCE_SECONDS = 30.0
# So much of a driver's error becomes the reason of a node's state.
_MOST_CHARACTERS = 255


class Driver(Protocol):
    """The part of an inventory driver that is used here."""

    def get_available_nodes(self) -> Sequence[str]: ...

    def get_available_resource(self, nodename: str) -> Mapping[str, object] | None: ...


@dataclass(slots=True)
class InventoryReport:
    """The end of a reading of one host's inventories: the errors of the nodes, or of the list, that could not be read."""

    host: str
    errors: list[Exception] = field(default_factory=list)


Report = commands.ReportList | commands.ReportNode
Done = Callable[[InventoryReport], None]
Found = Callable[[str, Report], None]
"""Called with the host and what is known now: its list of nodes, or one of its nodes."""


@dataclass(slots=True, eq=False)
class _Reading:
    """One call of ``read`` or ``refresh``: ``unanswered`` questions are left."""

    report: InventoryReport
    node: str | None
    found: Found
    done: Done | None
    unanswered: int = 1


@dataclass(slots=True, eq=False)
class _Question:
    """A question that has been asked at ``began`` (monotonic clock, seconds), and who waits for it. ``told``: it is answered,
    or counts as failed."""

    waiting: Mapping[Hashable, _Reading]
    began: float
    told: bool = False


class Inventories:
    """``read``, ``refresh`` and ``note_hanging`` may be called from any thread; ``found`` and ``done`` are called on a thread
    of the pool, and ``found`` also on the thread that calls ``note_hanging``."""

    def __init__(
        self,
        drivers: Mapping[str, Driver],
        reserved: Resources,
        *,
        pool: threads.Pool | None = None,
        monotonic: Callable[[], float] = threads.monotonic,
        runtime: threads.Runtime = threads.SYSTEM,
    ) -> None:
        """``drivers`` by host; ``reserved`` is kept of each node for the host itself. ``monotonic`` gives seconds."""
        self._drivers = drivers
        self._reserved = reserved
        self._pool = pool or runtime.pool("tracker-inventory", _QUESTIONS, patience_seconds=_PATIENCE_SECONDS)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # Who waits for the question that is to be asked next: by (host, node), or (host, None) for its list of nodes. A key is
        # here for as long as its question is queued or is being answered.
        self._waiting: dict[tuple[str, str | None], dict[Hashable, _Reading]] = {}
        # The questions that are queued, by host: the first host has its turn. And those that are being answered.
        self._queued: dict[str, deque[str | None]] = {}
        self._asked: dict[tuple[str, str | None], _Question] = {}
        self._refused: dict[str, list[str]] = {}

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Ask no further question. A driver that hangs is left to end with the process."""
        self._pool.stop()

    def figures(self) -> dict[str, int]:
        """The numbers of questions that are queued, that drivers are answering, and of those that count as failed meanwhile."""
        with self._lock:
            asked = list(self._asked.values())
            queued = sum(map(len, self._queued.values()))
        return {"queued": queued, "asked": len(asked), "late": sum(each.told for each in asked)}

    def read(self, host: str, node: str | None, done: Done, found: Found) -> None:
        """Ask the host's driver for its list of nodes, and about ``node``, or about all of them. Call ``found`` for each answer
        and each failure, and ``done`` when all have answered."""
        reading = _Reading(InventoryReport(host), node, found, done)
        self._wait(host, None, reading, reading)

    def refresh(self, host: str, node: str | None, found: Found) -> None:
        """The same with nobody to wait for the end: however often this is called while a driver hangs, one question follows for
        each node and ``found``."""
        self._wait(host, None, (node, found), _Reading(InventoryReport(host), node, found, None))

    def note_hanging(self) -> None:
        """Have each question that has not been answered for ``_PATIENCE_SECONDS`` count as failed, until it is answered."""
        reason = f"the driver has not answered for {_PATIENCE_SECONDS:g} s"
        late = self._monotonic() - _PATIENCE_SECONDS
        with self._lock:  # an answer that comes now is told after this
            for (host, node), asked in self._asked.items():
                if not asked.told and asked.began <= late:
                    asked.told = True
                    LOG.warning("inventory of %s: %s", _named(host, node), reason)
                    for reading in asked.waiting.values():
                        reading.found(host, _failure(node, reason))

    def _wait(self, host: str, node: str | None, key: Hashable, reading: _Reading) -> None:
        with self._lock:
            waiting = self._waiting.get((host, node))
            if waiting is not None:
                waiting.setdefault(key, reading)
                return
            self._waiting[host, node] = {key: reading}
            self._queue_locked(host, node)
        self._pool.submit(self._ask_next)

    def _queue_locked(self, host: str, node: str | None) -> None:
        queued = self._queued.setdefault(host, deque())
        if node is None:
            queued.appendleft(node)
        else:
            queued.append(node)

    def _ask_next(self) -> None:
        """Ask the next question of the host whose turn it is, for everyone who waits for it now, and have it asked once more
        for whoever has come by its end."""
        with self._lock:
            host = next(iter(self._queued))
            queued = self._queued.pop(host)
            key = host, queued.popleft()
            if queued:
                self._queued[host] = queued  # behind the other hosts
            waiting, self._waiting[key] = self._waiting[key], {}
            self._asked[key] = asked = _Question(waiting, self._monotonic())
        if key[1] is None:
            self._list(host, asked)
        else:
            self._look(host, key[1], asked)
        with self._lock:
            del self._asked[key]
            again = bool(self._waiting[key])
            if again:
                self._queue_locked(*key)
            else:
                del self._waiting[key]
        if again:
            self._pool.submit(self._ask_next)

    def _list(self, host: str, asked: _Question) -> None:
        failed: Exception | None = None
        nodes: list[str] = []
        report: Report
        try:
            nodes = self._names(host, self._drivers[host].get_available_nodes())
            report = commands.ReportList(nodes=frozenset(nodes))
        except Exception as error:  # noqa: BLE001 the driver's edge: reported, and asked again next time
            failed, report = error, _failure(None, _text(host, None, error))
        self._answer(asked)
        for key, reading in asked.waiting.items():
            reading.found(host, report)
            wanted = nodes if reading.node is None else [name for name in nodes if name == reading.node]
            if failed is not None:
                reading.report.errors.append(failed)
            elif reading.node is not None and not wanted:
                reading.report.errors.append(NodeNotFound(host=host, node=reading.node))
            reading.unanswered += len(wanted)
            for name in wanted:
                self._wait(host, name, key, reading)
            self._answered(reading)

    def _names(self, host: str, listed: Iterable[object]) -> list[str]:
        """The names in a driver's list, each once. A name that no node can have is left out, which is logged when it is new."""
        names: dict[str, None] = {}
        refused: list[str] = []
        for name in listed:
            try:
                names[read_node_name(name)] = None
            except InvalidInput as error:
                refused.append(f"{printable(repr(name), _MOST_CHARACTERS)} ({error.kwargs['reason']})")
        if refused != self._refused.get(host, []):
            for text in refused:
                LOG.error("host %s: the driver lists a node whose name is refused: %s", host, text)
            self._refused[host] = refused
        return list(names)

    def _look(self, host: str, node: str, asked: _Question) -> None:
        failed: Exception | None = None
        report: Report
        try:
            resource = self._drivers[host].get_available_resource(node)
            report = commands.ReportNode(node=node, inventory=read_inventory(resource, self._reserved))
        except Exception as error:  # noqa: BLE001 the driver's edge
            failed, report = error, _failure(node, _text(host, node, error))
        self._answer(asked)
        for reading in asked.waiting.values():
            if failed is not None:
                with self._lock:
                    reading.report.errors.append(failed)
            reading.found(host, report)
            self._answered(reading)

    def _answer(self, asked: _Question) -> None:
        with self._lock:
            asked.told = True

    def _answered(self, reading: _Reading) -> None:
        with self._lock:
            reading.unanswered -= 1
            finished = reading.unanswered == 0
        if finished and reading.done is not None:
            reading.done(reading.report)


def _failure(node: str | None, reason: str) -> Report:
    if node is None:
        return commands.ReportList(nodes=frozenset(), failure=reason)
    return commands.ReportNode(node=node, inventory=None, failure=reason)


def _text(host: str, node: str | None, error: Exception) -> str:
    """The reason of a state: what a driver's error says. It is logged in full."""
    LOG.warning("inventory of %s: the driver failed: %s: %s", _named(host, node), type(error).__name__, error)
    return printable(f"the driver failed: {type(error).__name__}: {error}", _MOST_CHARACTERS)


def _named(host: str, node: str | None) -> str:
    return f"host {host}" if node is None else f"node {node} of host {host}"
