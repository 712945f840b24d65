# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks workers``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from benchmarks import results
from benchmarks.borrowed import stage as servers
from benchmarks.commands.terminal import console, progress
from benchmarks.job import Figures
from benchmarks.workers.compare import ONE, STORES, Key, Plan, Sample, compare, summary


@click.command()
@click.option("--calls", type=click.IntRange(min=20), default=5000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--hosts", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--in-flight", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--store", type=click.Choice(STORES), multiple=True, help="Store; repeatable.  [default: both]")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=results.DIRECTORY,
    help="Directory of the JSON file.",
)
def command(calls: int, rounds: int, hosts: int, in_flight: int, store: tuple[str, ...], output: Path) -> None:
    """Compare one worker with two that share a database and serve different hosts, or the same hosts."""
    plan = Plan(calls=calls, rounds=rounds, hosts=hosts, in_flight=in_flight, stores=store or STORES)
    samples: list[Sample] = []
    with progress() as shown, servers() as stage:
        machine = results.machine(rabbitmq=stage.broker_version)
        task = shown.add_task("", total=plan.measurements)
        for sample in compare(plan, stage, lambda doing: shown.update(task, description=doing)):
            samples.append(sample)
            shown.advance(task)
    path = results.path(output, "workers").with_suffix(".json")
    results.write_json(path, {"machine": machine, "plan": asdict(plan), "samples": samples})
    console().print(_table(summary(samples), plan))
    console().print(str(path), soft_wrap=True)


def _table(found: Mapping[Key, Figures], plan: Plan) -> Table:
    table = Table(
        title=f"Claims on {plan.hosts} hosts, {plan.in_flight} in flight, classic queues; medians over the rounds; "
        "CPU in microseconds per call"
    )
    for column in ("store", "workers"):
        table.add_column(column)
    columns = ("calls/s", "p50 ms", "p99 ms", "first", "second", "broker", "database", f"calls/s / {ONE}")
    for column in columns:
        table.add_column(column, justify="right")
    previous = None
    for (store, arrangement), figures in found.items():
        if previous not in (None, store):
            table.add_section()
        previous = store
        cpu = figures.cpu_us
        table.add_row(
            store,
            arrangement,
            f"{figures.calls_per_second:.0f}",
            f"{figures.p50_ms:.2f}",
            f"{figures.p99_ms:.2f}",
            *(f"{cpu[name]:.0f}" if name in cpu else "" for name in ("server", "second", "broker", "database")),
            f"{figures.calls_per_second / found[store, ONE].calls_per_second:.2f}",
        )
    return table
