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
_AUDITS = 20
_SLOW_SECONDS = 10
_PERIOD_SECONDS = 300
_QUIET_SECONDS = 40
"""What is measured before the period is over takes no longer."""
_LOOKED_SECONDS = 1.5
"""By then, the worker has noticed that a period is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    calls: int = 5000
    rounds: int = 3
    allocations: Sequence[int] = (10, 1_000, 100_000)
    hosts: Sequence[int] = (1, 100, 1_000)
    backlog: Sequence[int] = (0, 1_000_000)
    queue_type: str = "classic"
    side: str = OURS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement. ``resident_mb`` is taken right after the start; ``more`` holds this experiment's own figures by name."""

    experiment: str
    size: int
    round: int
    start_seconds: float
    resident_mb: float
    figures: Figures
    more: Mapping[str, float]


class Growth:
    """Run a plan on a stage."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan = plan
        self._stage = stage

    def run(self) -> Iterator[Sample]:
        for number in range(self._plan.rounds):
            for size in self._plan.allocations:
                yield self._allocations(size, number)
            yield self._audited(max(self._plan.allocations), number)
            for size in self._plan.hosts:
                yield self._hosts(size, number)
            for size in self._plan.backlog:
                yield self._backlog(size, number)
            for seconds in (0, _SLOW_SECONDS):
                yield self._slow(seconds, number)
            yield self._sweep(max(self._plan.allocations), number)

    @property
    def measurements(self) -> int:
        plan = self._plan
        return plan.rounds * (len(plan.allocations) + len(plan.hosts) + len(plan.backlog) + 4)

    def _allocations(self, size: int, number: int) -> Sample:
        with self._worker(prepare=partial(preload.allocations, hosts=[HOST], count=size)) as server:
            resident = resident_mb(server.watched["server"])
            alone = self._load(server, in_flight=1, calls=self._plan.calls // 5)
            audit = self._load(server, in_flight=1, calls=_AUDITS, warmup=2, method="update_available_resource")
            more = {"p50_ms alone": alone.p50_ms, "audit p50_ms": audit.p50_ms, "audit p99_ms": audit.p99_ms}
            return self._sample(ALLOCATIONS, size, number, server, resident, more)

    def _audited(self, size: int, number: int) -> Sample:
        with self._worker(
            prepare=partial(preload.allocations, hosts=[HOST], count=size),
            options={"tracker": {"audit_interval_seconds": 1}},
        ) as server:
            return self._sample(AUDITS, size, number, server, resident_mb(server.watched["server"]), {})

    def _hosts(self, size: int, number: int) -> Sample:
        names = [f"host-{number}" for number in range(1, size + 1)]
        with self._worker(hosts={name: {NODE: CAPACITY} for name in names}) as server:
            return self._sample(HOSTS, size, number, server, resident_mb(server.watched["server"]), {}, hosts=names)

    def _backlog(self, size: int, number: int) -> Sample:
        with self._worker(prepare=partial(preload.backlog, host=HOST, count=size)) as server:
            resident = resident_mb(server.watched["server"])
            before, begun = preload.published(server.database, HOST), time.perf_counter()
            # The relay publishes the outbox in order, so the notifications of these calls come last; the load does not wait
            # for them.
            figures = self._load(server, in_flight=IN_FLIGHT, calls=self._plan.calls)
            rate = (preload.published(server.database, HOST) - before) / (time.perf_counter() - begun)
            return self._made(BACKLOG, size, number, server, resident, figures, {"published/s": rate})

    def _slow(self, seconds: int, number: int) -> Sample:
        with (
            TemporaryDirectory(prefix="tracker-benchmark-driver-") as directory,
            self._worker(
                hosts={HOST: {NODE: CAPACITY, slow_driver.SLOW_NODE: CAPACITY}},
                options={"tracker": {"inventory_driver": slow_driver.NAME, "audit_interval_seconds": 1}},
                environment=slow_driver.installed(Path(directory), seconds),
            ) as server,
        ):
            return self._sample(SLOW, seconds, number, server, resident_mb(server.watched["server"]), {})

    def _sweep(self, size: int, number: int) -> Sample:
        """Claims while a period of so many instances is being closed, and just before."""
        ending = _next_boundary()
        with self._worker(
            prepare=partial(preload.allocations, hosts=[HOST], count=size, at=time.time_ns() // 1000),
            options={"notifications": {"usage_audit_period": f"{_PERIOD_SECONDS}s"}},
        ) as server:
            resident = resident_mb(server.watched["server"])
            quiet = self._load(server, in_flight=IN_FLIGHT, calls=self._plan.calls)
            assert time.time() < ending, "the period was over too early: measure on a faster machine"
            time.sleep(ending + _LOOKED_SECONDS - time.time())
            before, begun = preload.published(server.database, HOST), time.perf_counter()
            figures = self._load(server, in_flight=IN_FLIGHT, calls=self._plan.calls, seed="swept")
            after, seconds = preload.published(server.database, HOST), time.perf_counter() - begun
            told = after - before - self._plan.calls
            more = {"p99_ms before": quiet.p99_ms, "instances/s": told / seconds}
            return self._made(SWEEP, size, number, server, resident, figures, more)

    def _worker(self, **arguments: Any) -> Any:
        return running(self._stage, self._plan.side, self._plan.queue_type, **arguments)

    def _sample(
        self,
        experiment: str,
        size: int,
        number: int,
        server: Running,
        resident: float,
        more: Mapping[str, float],
        **load: Any,
    ) -> Sample:
        figures = self._load(server, in_flight=IN_FLIGHT, calls=self._plan.calls, **load)
        return self._made(experiment, size, number, server, resident, figures, more)

    @staticmethod
    def _made(
        experiment: str,
        size: int,
        number: int,
        server: Running,
        resident: float,
        figures: Figures,
        more: Mapping[str, float],
    ) -> Sample:
        return Sample(
            experiment=experiment,
            size=size,
            round=number,
            start_seconds=server.start_seconds,
            resident_mb=resident,
            figures=figures,
            more=more,
        )

    def _load(self, server: Running, **arguments: Any) -> Figures:
        whole = {"hosts": [HOST], "warmup": 500, "seed": str(arguments), "watched": server.watched, **arguments}
        return job.run(server.url, notifications="", **whole)


def _next_boundary() -> int:
    """When the present period is over, or the next one if too little is left of it: then this waits for that."""
    left = _PERIOD_SECONDS - time.time() % _PERIOD_SECONDS
    if left < _QUIET_SECONDS:
        time.sleep(left)
    return (int(time.time()) // _PERIOD_SECONDS + 1) * _PERIOD_SECONDS
