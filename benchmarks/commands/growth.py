# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks growth``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from benchmarks import report, results
from benchmarks.borrowed import stage as servers
from benchmarks.commands.terminal import console, progress
from benchmarks.growth import plot, summary
from benchmarks.growth.experiments import Growth, Plan, Sample
from benchmarks.sides import OURS, OURS_POSTGRESQL, QUEUE_TYPES

_QUICK = Plan(calls=1000, rounds=1, allocations=(10, 10_000), hosts=(1, 100), backlog=(0, 20_000))


@click.command()
@click.option("--quick", is_flag=True, help="First figures: one round, a tenth of the sizes or less.")
@click.option("--calls", type=click.IntRange(min=100), help="Calls in each measurement.  [default: 5000]")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of all measurements.  [default: 3]")
@click.option("--queue", type=click.Choice(list(QUEUE_TYPES)), default="classic", show_default=True)
@click.option("--side", type=click.Choice([OURS, OURS_POSTGRESQL]), default=OURS, show_default=True)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=results.DIRECTORY,
    help="Directory of JSON and plot.",
)
def command(quick: bool, calls: int | None, rounds: int | None, queue: str, side: str, output: Path) -> None:
    """Measure larger nodes, more hosts, audits, a long outbox and a slow driver."""
    base = _QUICK if quick else Plan()
    plan = Plan(
        calls=calls or base.calls,
        rounds=rounds or base.rounds,
        allocations=base.allocations,
        hosts=base.hosts,
        backlog=base.backlog,
        queue_type=queue,
        side=side,
    )
    samples: list[Sample] = []
    with progress() as shown, servers() as stage:
        machine = results.machine(rabbitmq=stage.broker_version)
        growth = Growth(plan, stage)
        task = shown.add_task("growth", total=growth.measurements)
        for sample in growth.run():
            samples.append(sample)
            shown.update(task, advance=1, description=f"{sample.experiment}: {sample.size:,}")
    found = summary.medians(samples)
    outcomes = summary.targets(found, plan)
    path = results.path(output, "growth")
    content = {"machine": machine, "plan": asdict(plan), "samples": samples, "targets": outcomes}
    results.write_json(path.with_suffix(".json"), content)
    plot.write(found, path.with_suffix(".png"))
    console().print(summary.table(found), report.targets(outcomes))
    console().print(f"{path}.json, {path}.png", soft_wrap=True)
