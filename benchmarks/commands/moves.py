# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks moves``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from benchmarks import results
from benchmarks.borrowed import stage as servers
from benchmarks.commands.terminal import console, progress
from benchmarks.moves.compare import SIDES, Figures, Plan, Sample, compare, summary


@click.command()
@click.option("--moves", type=click.IntRange(min=10), default=1000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 64),
    show_default=True,
    help="Moves in flight; repeatable.",
)
@click.option("--side", type=click.Choice(SIDES), multiple=True, help="Side; repeatable.  [default: both]")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=results.DIRECTORY,
    help="Directory of the JSON file.",
)
def command(moves: int, rounds: int, in_flight: tuple[int, ...], side: tuple[str, ...], output: Path) -> None:
    """Measure whole moves between two hosts of one worker, and claims for scale."""
    plan = Plan(moves=moves, rounds=rounds, in_flight=sorted(set(in_flight)), sides=side or SIDES)
    samples: list[Sample] = []
    with progress() as shown, servers() as stage:
        machine = results.machine(rabbitmq=stage.broker_version)
        task = shown.add_task("", total=plan.measurements)
        for sample in compare(plan, stage, lambda doing: shown.update(task, description=doing)):
            samples.append(sample)
            shown.advance(task)
    path = results.path(output, "moves").with_suffix(".json")
    results.write_json(path, {"machine": machine, "plan": asdict(plan), "samples": samples})
    console().print(_table(summary(samples)))
    console().print(str(path), soft_wrap=True)


def _table(found: Mapping[tuple[str, int], Figures]) -> Table:
    table = Table(
        title="Cold migrations between two hosts of one worker, four calls each; medians over the rounds; "
        "CPU in microseconds per move"
    )
    table.add_column("side")
    columns = ("in flight", "moves/s", "p50 ms", "p99 ms", "server", "broker", "database", "generator")
    for column in (*columns, "claims/s", "calls of moves / claims"):
        table.add_column(column, justify="right")
    for (side, in_flight), figures in found.items():
        moves = figures.moves
        table.add_row(
            side,
            str(in_flight),
            f"{moves.moves_per_second:.0f}",
            f"{moves.p50_ms:.2f}",
            f"{moves.p99_ms:.2f}",
            *(
                f"{moves.cpu_us[name]:.0f}" if name in moves.cpu_us else ""
                for name in ("server", "broker", "database", "generator")
            ),
            f"{figures.claims_per_second:.0f}",
            f"{4 * moves.moves_per_second / figures.claims_per_second:.2f}",
        )
    return table
