# SPDX-License-Identifier: Apache-2.0
"""Medians, targets and the table of the growth experiments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from rich.table import Table

from benchmarks.generator import median_of
from benchmarks.growth.experiments import ALLOCATIONS, AUDITS, HOSTS, SLOW, SWEEP, Plan, Sample
from benchmarks.targets import Outcome, outcome

Found = Mapping[tuple[str, int], Sample]
"""Experiment and size -> medians over the rounds."""


def medians(samples: Sequence[Sample]) -> Found:
    rounds: defaultdict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        rounds[sample.experiment, sample.size].append(sample)
    return {key: _median(measured) for key, measured in rounds.items()}


def _median(measured: Sequence[Sample]) -> Sample:
    return replace(
        measured[0],
        start_seconds=median(one.start_seconds for one in measured),
        resident_mb=median(one.resident_mb for one in measured),
        figures=median_of([one.figures for one in measured]),
        more={name: median(one.more[name] for one in measured) for name in measured[0].more},
    )


def targets(found: Found, plan: Plan) -> list[Outcome]:
    """Compare the largest size of each experiment with the smallest."""
    few, many = min(plan.allocations), max(plan.allocations)
    one, crowd = min(plan.hosts), max(plan.hosts)

    def ratio(name: str, large: int, small: int, read: Callable[[Sample], float], base: str | None = None) -> float:
        return read(found[name, large]) / read(found[base or name, small])

    grown = (found[ALLOCATIONS, many].resident_mb - found[ALLOCATIONS, few].resident_mb) * 1024 / (many - few)
    throughput, p99 = (lambda one: one.figures.calls_per_second), (lambda one: one.figures.p99_ms)
    swept = found[SWEEP, many]
    slowest = max(size for name, size in found if name == SLOW)
    return [
        outcome(f"throughput, {many} allocations / {few}", ">=", 0.9, ratio(ALLOCATIONS, many, few, throughput)),
        outcome(f"throughput, {crowd} hosts / {one}", ">=", 0.7, ratio(HOSTS, crowd, one, throughput)),
        outcome("memory per allocation, KB", "<=", 1.5, grown),
        outcome(f"p99, another node's driver takes {slowest} s / none", "<=", 1.2, ratio(SLOW, slowest, 0, p99)),
        outcome(
            f"p99, {many} allocations, audit every second / hardly any",
            "<=",
            1.2,
            ratio(AUDITS, many, many, p99, ALLOCATIONS),
        ),
        outcome(f"p99, {many} instances swept / before", "<=", 2.0, swept.figures.p99_ms / swept.more["p99_ms before"]),
    ]


def table(found: Found) -> Table:
    """Build a table with one row for each experiment and size."""
    made = Table(title="Growth; 64 claims in flight; medians over the rounds; CPU in microseconds per call")
    for column in ("what grows", "to", "start s", "MB then", "calls/s", "p50 ms", "p99 ms", "server", "broker"):
        made.add_column(column, justify="left" if column == "what grows" else "right")
    made.add_column("and")
    previous = None
    for (experiment, size), sample in found.items():
        if previous not in (None, experiment):
            made.add_section()
        previous = experiment
        figures = sample.figures
        made.add_row(
            experiment,
            f"{size:,}",
            f"{sample.start_seconds:.1f}",
            f"{sample.resident_mb:.0f}",
            f"{figures.calls_per_second:.0f}",
            f"{figures.p50_ms:.2f}",
            f"{figures.p99_ms:.2f}",
            f"{figures.cpu_us['server']:.0f}",
            f"{figures.cpu_us['broker']:.0f}",
            ", ".join(f"{name} {value:.1f}" for name, value in sample.more.items()),
        )
    return made
