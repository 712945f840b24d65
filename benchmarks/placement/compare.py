# SPDX-License-Identifier: Apache-2.0
"""Claims of the worker on PostgreSQL and allocations of Placement on the same server, in interleaved rounds."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import generator, job
from benchmarks.generator import median_of
from benchmarks.placement import load
from benchmarks.placement.load import PutFigures, PutJob
from benchmarks.placement.server import serving
from benchmarks.sides import HOST, OURS_POSTGRESQL, running
from benchmarks.stage import Stage
from benchmarks.targets import Outcome, outcome

RATIO = 30
Found = Mapping[tuple[str, int], PutFigures]
"""Side and requests in flight -> medians over the rounds."""


def default_processes() -> Sequence[int]:
    """One worker process, as our worker is one, and as many as there are cores."""
    return sorted({1, len(os.sched_getaffinity(0))})


def placement_side(processes: int) -> str:
    """The name of Placement's side with so many worker processes."""
    return f"Placement, {processes} {'process' if processes == 1 else 'processes'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``calls`` are the claims of a measurement of the worker, ``allocations`` the PUTs of a measurement of Placement: it adds
    up all allocations of the provider for each new one, so that more of them would slow it down.
    """

    calls: int = 5000
    allocations: int = 500
    rounds: int = 3
    in_flight: Sequence[int] = (1, 64)
    processes: Sequence[int] = field(default_factory=default_processes)
    queue_type: str = "classic"

    @property
    def measurements(self) -> int:
        return self.rounds * len(self.in_flight) * (1 + len(self.processes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement of one round. ``retries`` of the worker's figures are 0: its clients need none."""

    round: int
    side: str
    in_flight: int
    figures: PutFigures


def compare(plan: Plan, stage: Stage, tell: Callable[[str], None]) -> Iterator[Sample]:
    """Yield one sample after the other and pass a description of each step to ``tell``."""
    # No processes: our worker.
    sides = [0, *plan.processes]
    for number in range(plan.rounds):
        for processes in sides if number % 2 == 0 else reversed(sides):
            side = placement_side(processes) if processes else OURS_POSTGRESQL
            tell(f"round {number + 1}: {side}")
            measured = _placement(plan, stage, processes, number) if processes else _ours(plan, stage, number)
            for in_flight, figures in measured:
                yield Sample(round=number, side=side, in_flight=in_flight, figures=figures)


def _ours(plan: Plan, stage: Stage, number: int) -> Iterator[tuple[int, PutFigures]]:
    with running(stage, OURS_POSTGRESQL, plan.queue_type) as server:
        for in_flight in plan.in_flight:
            figures = job.run(
                server.url,
                hosts=[HOST],
                in_flight=in_flight,
                calls=plan.calls,
                warmup=plan.calls // 10,
                seed=f"{number} {in_flight}",
                watched=server.watched,
                notifications=server.notifications,
            )
            yield (
                in_flight,
                PutFigures(
                    calls_per_second=figures.calls_per_second,
                    p50_ms=figures.p50_ms,
                    p99_ms=figures.p99_ms,
                    max_ms=figures.max_ms,
                    cpu_us=figures.cpu_us,
                    retries=0,
                ),
            )


def _placement(plan: Plan, stage: Stage, processes: int, number: int) -> Iterator[tuple[int, PutFigures]]:
    with serving(stage, processes) as server:
        for in_flight in plan.in_flight:
            puts = PutJob(
                port=server.port,
                provider=server.provider,
                in_flight=in_flight,
                calls=plan.allocations,
                warmup=plan.allocations // 10,
                seed=f"{number} {in_flight}",
                watched=server.watched,
            )
            yield in_flight, generator.run(load.MODULE, puts, PutFigures)


def summary(samples: Sequence[Sample]) -> Found:
    """The medians over the rounds, in order of appearance."""
    rounds: defaultdict[tuple[str, int], list[PutFigures]] = defaultdict(list)
    for sample in samples:
        rounds[sample.side, sample.in_flight].append(sample.figures)
    return {key: median_of(measured) for key, measured in rounds.items()}


def targets(found: Found) -> list[Outcome]:
    """Compare the worker with each of Placement's sides, each with the number in flight with which it is fastest."""
    best: dict[str, float] = {}
    for (side, _), figures in found.items():
        best[side] = max(best.get(side, 0.0), figures.calls_per_second)
    ours = best[OURS_POSTGRESQL]
    return [
        outcome(f"claims/s / allocations/s, each at its best: {OURS_POSTGRESQL} / {side}", ">=", RATIO, ours / theirs)
        for side, theirs in best.items()
        if side != OURS_POSTGRESQL
    ]
