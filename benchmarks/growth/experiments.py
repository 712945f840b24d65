# SPDX-License-Identifier: Apache-2.0
"""The experiments. Each starts a worker on a prepared database and measures claims while one quantity is large."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import job
from benchmarks.growth import preload, slow_driver
from benchmarks.job import Figures
from benchmarks.sides import HOST, OURS, Running, running
from benchmarks.stage import Stage
from benchmarks.usage import resident_mb
from benchmarks.workload import CAPACITY, NODE

IN_FLIGHT = 64
ALLOCATIONS, HOSTS, AUDITS, BACKLOG, SLOW, SWEEP = (
    "allocations on the node",
    "hosts on the worker",
    "audit every second, allocations",
    "notifications unpublished",
    "another node's driver, seconds",
    "instances whose period is being closed",
)
EXPERIMENTS = {
    "allocations": ALLOCATIONS,
    "audits": AUDITS,
    "hosts": HOSTS,
    "backlog": BACKLOG,
    "slow-driver": SLOW,
    "exists": SWEEP,
}
"""The names on the command line."""
_AUDITS = 20
_LOOKED_SECONDS = 1.5
"""By then, the worker has noticed that a period is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The measurements. ``slow`` are the seconds that a driver takes. ``period_seconds`` is the length of the
    periods that are closed: a part of a day; what is measured before the end of one takes at most ``quiet_seconds``.
    """

    calls: int = 5000
    rounds: int = 3
    allocations: Sequence[int] = (10, 1_000, 100_000)
    hosts: Sequence[int] = (1, 100, 1_000)
    backlog: Sequence[int] = (0, 1_000_000)
    slow: Sequence[int] = (0, 10)
    period_seconds: int = 300
    quiet_seconds: int = 40
    queue_type: str = "classic"
    sides: Sequence[str] = (OURS,)
    experiments: Sequence[str] = tuple(EXPERIMENTS.values())

    def measurements(self) -> list[tuple[str, int, str]]:
        """The experiments of a round, with size and side."""
        most = max(self.allocations)
        sizes = {
            ALLOCATIONS: self.allocations,
            AUDITS: (most,),
            HOSTS: self.hosts,
            BACKLOG: self.backlog,
            SLOW: self.slow,
            SWEEP: (most,),
        }
        return [(name, size, side) for name in self.experiments for size in sizes[name] for side in self.sides]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement. ``resident_mb`` is taken right after the start; ``more`` holds this experiment's own figures by name."""

    experiment: str
    size: int
    side: str
    round: int
    start_seconds: float
    resident_mb: float
    figures: Figures
    more: Mapping[str, float]


_Measured = tuple[Running, float, Figures, Mapping[str, float]]
"""The worker, its resident memory right after the start, the figures of the claims, and this experiment's own figures."""


class Growth:
    """Run a plan on a stage."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan = plan
        self._stage = stage

    def run(self) -> Iterator[Sample]:
        experiments = {
            ALLOCATIONS: self._allocations,
            AUDITS: self._audited,
            HOSTS: self._hosts,
            BACKLOG: self._backlog,
            SLOW: self._slow,
            SWEEP: self._sweep,
        }
        for number in range(self._plan.rounds):
            for name, size, side in self._plan.measurements():
                server, resident, figures, more = experiments[name](size, side)
                yield Sample(
                    experiment=name,
                    size=size,
                    side=side,
                    round=number,
                    start_seconds=server.start_seconds,
                    resident_mb=resident,
                    figures=figures,
                    more=more,
                )

    def _allocations(self, size: int, side: str) -> _Measured:
        with self._worker(side, prepare=partial(preload.allocations, hosts=[HOST], count=size)) as server:
            resident = resident_mb(server.watched["server"])
            alone = self._load(server, in_flight=1, calls=self._plan.calls // 5)
            audit = self._load(server, in_flight=1, calls=_AUDITS, warmup=2, method="update_available_resource")
            more = {"p50_ms alone": alone.p50_ms, "audit p50_ms": audit.p50_ms, "audit p99_ms": audit.p99_ms}
            return server, resident, self._load(server), more

    def _audited(self, size: int, side: str) -> _Measured:
        with self._worker(
            side,
            prepare=partial(preload.allocations, hosts=[HOST], count=size),
            options={"tracker": {"audit_interval_seconds": 1}},
        ) as server:
            return server, resident_mb(server.watched["server"]), self._load(server), {}

    def _hosts(self, size: int, side: str) -> _Measured:
        names = [f"host-{number}" for number in range(1, size + 1)]
        with self._worker(side, hosts={name: {NODE: CAPACITY} for name in names}) as server:
            resident = resident_mb(server.watched["server"])
            # Of each host, the first message waits for a look at the host's marker on the broker.
            first = self._load(server, hosts=names, calls=max(size, self._plan.calls // 10), warmup=0)
            more = {"calls/s at first": first.calls_per_second}
            return server, resident, self._load(server, hosts=names, seed="settled"), more

    def _backlog(self, size: int, side: str) -> _Measured:
        with self._worker(side, prepare=partial(preload.backlog, host=HOST, count=size)) as server:
            resident = resident_mb(server.watched["server"])
            before, begun = preload.published(server.database, HOST), time.perf_counter()
            # The relay publishes the outbox in order, so the notifications of these calls come last; the load does not wait
            # for them.
            figures = self._load(server)
            rate = (preload.published(server.database, HOST) - before) / (time.perf_counter() - begun)
            return server, resident, figures, {"published/s": rate}

    def _slow(self, seconds: int, side: str) -> _Measured:
        with (
            TemporaryDirectory(prefix="tracker-benchmark-driver-") as directory,
            self._worker(
                side,
                hosts={HOST: {NODE: CAPACITY, slow_driver.SLOW_NODE: CAPACITY}},
                options={"tracker": {"inventory_driver": slow_driver.NAME, "audit_interval_seconds": 1}},
                environment=slow_driver.installed(Path(directory), seconds),
            ) as server,
        ):
            return server, resident_mb(server.watched["server"]), self._load(server), {}

    def _sweep(self, size: int, side: str) -> _Measured:
        """Claims while a period of so many instances is being closed, and just before."""
        ending = _next_boundary(self._plan.period_seconds, self._plan.quiet_seconds)
        with self._worker(
            side,
            prepare=partial(preload.allocations, hosts=[HOST], count=size, at=time.time_ns() // 1000),
            options={"notifications": {"usage_audit_period": f"{self._plan.period_seconds}s"}},
        ) as server:
            resident = resident_mb(server.watched["server"])
            quiet = self._load(server)
            assert time.time() < ending, "the period was over too early: measure on a faster machine"
            time.sleep(ending + _LOOKED_SECONDS - time.time())
            before, begun = preload.published(server.database, HOST), time.perf_counter()
            figures = self._load(server, seed="swept")
            after, seconds = preload.published(server.database, HOST), time.perf_counter() - begun
            told = after - before - self._plan.calls
            return server, resident, figures, {"p99_ms before": quiet.p99_ms, "instances/s": told / seconds}

    def _worker(self, side: str, **arguments: Any) -> Any:
        return running(self._stage, side, self._plan.queue_type, **arguments)

    def _load(self, server: Running, **arguments: Any) -> Figures:
        plan = self._plan
        whole = {
            "hosts": [HOST],
            "in_flight": IN_FLIGHT,
            "calls": plan.calls,
            "warmup": plan.calls // 10,
            "seed": str(arguments),
            "watched": server.watched,
            **arguments,
        }
        return job.run(server.url, notifications="", **whole)


def _next_boundary(period: int, quiet: int) -> int:
    """When the present period is over, or, if less than ``quiet`` seconds of it are left, the next one: then this waits for its
    beginning. Seconds since the epoch.
    """
    left = period - time.time() % period
    if left < quiet:
        time.sleep(left)
    return (int(time.time()) // period + 1) * period
