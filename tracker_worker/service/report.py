# SPDX-License-Identifier: Apache-2.0
"""What a worker says of itself when it is asked by a signal: figures of every part, as they are at this moment.

Sections are made on another thread than those that they are about, also while one of these hangs: they look, take no lock for
longer than a copy, and ask neither the store nor the broker. Whoever writes a report limits the time of each section.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tracker_worker import threads
from tracker_worker.bus.base import Bus
from tracker_worker.counters import Counters
from tracker_worker.service.chores.inventories import Inventories
from tracker_worker.service.chores.ownership import Ownership
from tracker_worker.service.chores.standing import Standing
from tracker_worker.service.health.readiness import Document
from tracker_worker.service.loop.thread import EngineThread
from tracker_worker.service.watchdog import place
from tracker_worker.store.base import Store
from tracker_worker.text import counted

MOST_HOSTS = 100
MOST_DECISIONS = 50


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report. ``lines`` makes them."""

    title: str
    lines: Callable[[], Iterable[str]]


def sections(
    *,
    owner: str,
    hosts: Sequence[str],
    engine: EngineThread,
    ownership: Ownership,
    bus: Bus,
    store: Store,
    inventories: Inventories,
    counters: Counters,
    queues: Callable[[], Mapping[str, tuple[int, int]]],
    recent_decisions: Callable[[], Sequence[str]],
    readiness: Callable[[], Document],
) -> list[Section]:
    """The sections about the parts of one worker, whose name in leases is ``owner``."""
    return [
        Section("worker", lambda: _worker(owner, engine, bus, readiness())),
        Section("hosts", lambda: _hosts(hosts, engine, ownership)),
        Section("queues", lambda: queue_lines(queues())),
        Section("pools", lambda: _pools(store, inventories)),
        Section("counters", lambda: (f"{name}: {value}" for name, value in counters.snapshot().items() if value)),
        Section("decisions", lambda: list(recent_decisions())[-MOST_DECISIONS:]),
    ]


def thread_lines() -> Iterator[str]:
    """A line for each thread of this process: its name, and the place in this package where it stands."""
    for name, frame in sorted(threads.frames(), key=lambda found: found[0]):
        yield f"{name}: {place(frame)}"


def queue_lines(queues: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """A line for each queue: messages and bytes."""
    for name, (messages, size) in queues.items():
        yield f"{name}: {counted(messages, 'message')}, {counted(size, 'byte')}"


def _worker(owner: str, engine: EngineThread, bus: Bus, readiness: Document) -> Iterator[str]:
    yield f"name: {owner}"
    yield f"ledger_id: {engine.ledgers.ledger_id or 'not read yet'}"
    yield f"ready: {'yes' if readiness['ready'] else 'no'}"
    for problem in readiness["problems"]:
        yield f"problem {problem['code']}: {problem['message']}"
    yield f"broker: {'connected' if bus.connected() else 'not connected'}"
    blocked = bus.blocked()
    if blocked is not None:
        yield f"broker takes no messages: {blocked.reason}"


def _hosts(hosts: Sequence[str], engine: EngineThread, ownership: Ownership) -> Iterator[str]:
    standings = ownership.standings()
    held, active = engine.held, engine.active
    for host in hosts[:MOST_HOSTS]:
        standing, reason = standings[host]
        role = ("active" if host in active else "standby") if standing is Standing.SERVED else standing.value
        loaded = engine.ledgers.in_memory(host)
        if loaded is None:
            ledger = "not in memory"
        else:
            nodes = list(loaded)
            charged = sum(len(node.allocations) for node in nodes)
            ledger = f"{counted(len(nodes), 'node')}, {counted(charged, 'allocation')}"
        chores = ", does its chores" if host in held else ""
        yield f"{host}: {role}{chores}, {ledger}" + (f": {reason}" if reason else "")
    if len(hosts) > MOST_HOSTS:
        yield f"... and {counted(len(hosts) - MOST_HOSTS, 'more host')}"


def _pools(store: Store, inventories: Inventories) -> Iterator[str]:
    yield f"database: {store.pool()}"
    yield "inventory questions: " + ", ".join(f"{value} {name}" for name, value in inventories.figures().items())
