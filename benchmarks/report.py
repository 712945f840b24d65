# SPDX-License-Identifier: Apache-2.0
"""The tables that a run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.compare import Key
from benchmarks.job import Figures
from benchmarks.targets import Outcome


def comparison(found: Mapping[Key, Figures]) -> Table:
    """Build a table of all figures with a section for each queue type."""
    table = Table(title="Claims; medians over the rounds; CPU in microseconds per call")
    for column in ("queue", "side"):
        table.add_column(column)
    for column in (
        "in flight",
        "calls/s",
        "p50 ms",
        "p99 ms",
        "server",
        "broker",
        "database",
        "generator",
        "peak MB",
        "last notified\nafter ms",
    ):
        table.add_column(column, justify="right")
    previous: tuple[str, str] | None = None
    for (queue_type, side, in_flight), figures in found.items():
        if previous not in (None, (queue_type, side)):
            table.add_section()
        previous = queue_type, side
        table.add_row(queue_type, side, str(in_flight), *_cells(figures))
    return table


def _cells(figures: Figures) -> list[str]:
    cpu = figures.cpu_us
    return [
        f"{figures.calls_per_second:.0f}",
        f"{figures.p50_ms:.2f}",
        f"{figures.p99_ms:.2f}",
        f"{cpu['server']:.0f}",
        f"{cpu['broker']:.0f}",
        f"{cpu['database']:.0f}" if "database" in cpu else "",
        f"{cpu['generator']:.0f}",
        f"{figures.peak_mb:.0f}",
        f"{figures.notified_after_ms:.0f}",
    ]


def targets(outcomes: Sequence[Outcome]) -> Table:
    """Build a table of the ratios with the verdict on each target."""
    table = Table(title="Targets")
    table.add_column("figure")
    for column in ("target", "ratio"):
        table.add_column(column, justify="right")
    table.add_column("")
    for outcome in outcomes:
        if outcome.ratio is None:
            ratio, verdict = "", "not measured"
        else:
            ratio, verdict = f"{outcome.ratio:.2f}", "[green]met[/]" if outcome.met else "[red]not met[/]"
        table.add_row(outcome.figure, outcome.wanted, ratio, verdict)
    return table
