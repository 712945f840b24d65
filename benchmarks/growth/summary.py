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
from benchmarks.sides import OURS, OURS_POSTGRESQL
from benchmarks.targets import Outcome, outcome

Found = Mapping[tuple[str, int, str], Sample]
"""Experiment, size and side -> medians over the rounds."""


def medians(samples: Sequence[Sample]) -> Found:
    rounds: defaultdict[tuple[str, int, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        rounds[sample.experiment, sample.size, sample.side].append(sample)
    return {key: _median(measured) for key, measured in rounds.items()}


def _median(measured: Sequence[Sample]) -> Sample:
    return replace(
        measured[0],
        start_seconds=median(one.start_seconds for one in measured),
        resident_mb=median(one.resident_mb for one in measured),
        figures=median_of([one.figures for one in measured]),
        more={name: median(one.more[name] for one in measured) for name in measured[0].more},
    )


_Cell = tuple[str, int]
"""Experiment and size."""


def targets(found: Found, plan: Plan) -> list[Outcome]:
    """Compare the largest size of each experiment of the run with the smallest, and the starts of the two stores."""
    outcomes = [one for side in plan.sides for one in _of_side(found, plan, side)]
    if HOSTS in plan.experiments:
        crowd = max(plan.hosts)
        stores = [found.get((HOSTS, crowd, side)) for side in (OURS_POSTGRESQL, OURS)]
        started = [one.start_seconds for one in stores if one is not None]
        ratio = started[0] / started[1] if len(started) == 2 else None
        figure = f"start seconds with the most hosts, {crowd}: {OURS_POSTGRESQL} / {OURS}"
        outcomes.append(outcome(figure, "<=", 1.1, ratio))
    return outcomes


def _of_side(found: Found, plan: Plan, side: str) -> list[Outcome]:
    few, many = min(plan.allocations), max(plan.allocations)
    one, crowd = min(plan.hosts), max(plan.hosts)
    quick, slow = min(plan.slow), max(plan.slow)
    outcomes: list[Outcome] = []

    def judge(
        figure: str, relation: str, bound: float, large: _Cell, small: _Cell, read: Callable[[Sample], float]
    ) -> None:
        """Compare two samples, if the run has both."""
        samples = [found.get((*cell, side)) for cell in (large, small)]
        values = [read(sample) for sample in samples if sample is not None]
        if len(values) == 2:
            outcomes.append(outcome(f"{side}: {figure}", relation, bound, values[0] / values[1]))

    def throughput(sample: Sample) -> float:
        return sample.figures.calls_per_second

    def p99(sample: Sample) -> float:
        return sample.figures.p99_ms

    least, most = found.get((ALLOCATIONS, few, side)), found.get((ALLOCATIONS, many, side))
    judge(f"throughput, {many} allocations / {few}", ">=", 0.9, (ALLOCATIONS, many), (ALLOCATIONS, few), throughput)
    judge(f"throughput, {crowd} hosts / {one}", ">=", 0.75, (HOSTS, crowd), (HOSTS, one), throughput)
    if least is not None and most is not None and many > few:
        grown = (most.resident_mb - least.resident_mb) * 1024 / (many - few)
        outcomes.append(outcome(f"{side}: memory per allocation, KB", "<=", 1.3, grown))
    judge(f"p99, another node's driver takes {slow} s / {quick} s", "<=", 1.2, (SLOW, slow), (SLOW, quick), p99)
    judge(
        f"p99, {many} allocations, audit every second / hardly any",
        "<=",
        1.2,
        (AUDITS, many),
        (ALLOCATIONS, many),
        p99,
    )
    swept = found.get((SWEEP, many, side))
    if swept is not None:
        ratio = swept.figures.p99_ms / swept.more["p99_ms before"]
        outcomes.append(outcome(f"{side}: p99, {many} instances swept / before", "<=", 2.0, ratio))
    return outcomes


def table(found: Found) -> Table:
    """Build a table with one row for each experiment and size."""
    made = Table(title="Growth; 64 claims in flight; medians over the rounds; CPU in microseconds per call")
    for column in ("what grows", "to", "side", "start s", "MB then", "calls/s", "p50 ms", "p99 ms", "server", "broker"):
        made.add_column(column, justify="left" if column in ("what grows", "side") else "right")
    made.add_column("and")
    previous = None
    for (experiment, size, side), sample in found.items():
        if previous not in (None, experiment):
            made.add_section()
        previous = experiment
        figures = sample.figures
        made.add_row(
            experiment,
            f"{size:,}",
            side,
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
