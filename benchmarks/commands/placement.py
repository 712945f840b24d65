# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks placement``."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click
from rich.table import Table

from benchmarks import report, results
from benchmarks.borrowed import stage as servers
from benchmarks.commands.terminal import console, progress
from benchmarks.placement import compare
from benchmarks.placement.compare import Found, Plan, Sample, default_processes
from benchmarks.placement.server import THREADS
from benchmarks.sides import OURS_POSTGRESQL, QUEUE_TYPES


@click.command()
@click.option(
    "--calls", type=click.IntRange(min=20), default=5000, show_default=True, help="Claims in each measurement."
)
@click.option(
    "--allocations", type=click.IntRange(min=20), default=500, show_default=True, help="PUTs in each measurement."
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 64),
    show_default=True,
    help="Requests in flight; repeatable.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    multiple=True,
    default=default_processes(),
    show_default=True,
    help="Worker processes of Placement; repeatable.",
)
@click.option("--queue", type=click.Choice(list(QUEUE_TYPES)), default="classic", show_default=True)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=results.DIRECTORY,
    help="Directory of the JSON file.",
)
def command(
    calls: int,
    allocations: int,
    rounds: int,
    in_flight: tuple[int, ...],
    processes: tuple[int, ...],
    queue: str,
    output: Path,
) -> None:
    """Compare claims with the allocations of OpenStack Placement, on the same PostgreSQL."""
    plan = Plan(
        calls=calls,
        allocations=allocations,
        rounds=rounds,
        in_flight=sorted(set(in_flight)),
        processes=sorted(set(processes)),
        queue_type=queue,
    )
    samples: list[Sample] = []
    with progress() as shown, servers() as stage:
        versions = {name: version(name) for name in ("openstack-placement", "pyuwsgi", "psycopg2-binary")}
        machine = results.machine(rabbitmq=stage.broker_version, placement=versions)
        task = shown.add_task("", total=plan.measurements)
        for sample in compare.compare(plan, stage, lambda doing: shown.update(task, description=doing)):
            samples.append(sample)
            shown.advance(task)
    found = compare.summary(samples)
    outcomes = compare.targets(found)
    path = results.path(output, "placement").with_suffix(".json")
    results.write_json(path, {"machine": machine, "plan": asdict(plan), "samples": samples, "targets": outcomes})
    console().print(_table(found), report.targets(outcomes))
    console().print(str(path), soft_wrap=True)


def _table(found: Found) -> Table:
    table = Table(
        title="Claims, and allocations of Placement, on one PostgreSQL; medians over the rounds; CPU in microseconds per call",
        caption=f"Placement has {THREADS} threads in each process",
    )
    table.add_column("side")
    columns = ("in flight", "calls/s", "p50 ms", "p99 ms", "server", "database", "broker", "generator", "retries")
    for column in (*columns, "ours / this"):
        table.add_column(column, justify="right")
    for (side, in_flight), figures in found.items():
        cpu, ours = figures.cpu_us, found[OURS_POSTGRESQL, in_flight]
        table.add_row(
            side,
            str(in_flight),
            f"{figures.calls_per_second:.0f}",
            f"{figures.p50_ms:.2f}",
            f"{figures.p99_ms:.2f}",
            f"{cpu['server']:.0f}",
            f"{cpu['database']:.0f}",
            f"{cpu['broker']:.0f}" if "broker" in cpu else "",
            f"{cpu['generator']:.0f}",
            f"{figures.retries:.0f}",
            f"{ours.calls_per_second / figures.calls_per_second:.1f}",
        )
    return table
