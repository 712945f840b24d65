# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks growth``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click

from benchmarks import report, results
from benchmarks.borrowed import stage as servers
from benchmarks.commands.terminal import console, progress
from benchmarks.growth import plot, summary
from benchmarks.growth.experiments import EXPERIMENTS, Growth, Plan, Sample
from benchmarks.sides import OURS, OURS_POSTGRESQL, QUEUE_TYPES

_QUICK = Plan(calls=1000, rounds=1, allocations=(10, 10_000), hosts=(1, 100), backlog=(0, 20_000))
_SMALLEST = Plan(
    calls=100,
    rounds=1,
    allocations=(10,),
    hosts=(2,),
    backlog=(10,),
    slow=(1,),
    period_seconds=15,
    quiet_seconds=10,
)


@click.command()
@click.option("--quick", is_flag=True, help="First figures: one round, a tenth of the sizes or less.")
@click.option("--smallest", is_flag=True, hidden=True, help="The smallest sizes, for a test: they measure nothing.")
@click.option("--calls", type=click.IntRange(min=20), help="Calls in each measurement.  [default: 5000]")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of all measurements.  [default: 3]")
@click.option("--queue", type=click.Choice(list(QUEUE_TYPES)), default="classic", show_default=True)
@click.option(
    "--side",
    type=click.Choice([OURS, OURS_POSTGRESQL]),
    multiple=True,
    default=(OURS,),
    show_default=True,
    help="Side; repeatable.",
)
@click.option(
    "--experiment", type=click.Choice(list(EXPERIMENTS)), multiple=True, help="Experiment; repeatable.  [default: all]"
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=results.DIRECTORY,
    help="Directory of JSON and plot.",
)
def command(
    quick: bool,
    smallest: bool,
    calls: int | None,
    rounds: int | None,
    queue: str,
    side: tuple[str, ...],
    experiment: tuple[str, ...],
    output: Path,
) -> None:
    """Measure larger nodes, more hosts, audits, a long outbox, a slow driver and the end of a period."""
    base = _SMALLEST if smallest else _QUICK if quick else Plan()
    plan = replace(
        base,
        calls=calls or base.calls,
        rounds=rounds or base.rounds,
        queue_type=queue,
        sides=tuple(dict.fromkeys(side)),
        experiments=[EXPERIMENTS[name] for name in dict.fromkeys(experiment or EXPERIMENTS)],
    )
    samples: list[Sample] = []
    with progress() as shown, servers() as stage:
        machine = results.machine(rabbitmq=stage.broker_version)
        growth = Growth(plan, stage)
        task = shown.add_task("growth", total=plan.rounds * len(plan.measurements()))
        for sample in growth.run():
            samples.append(sample)
            shown.update(task, advance=1, description=f"{sample.experiment}: {sample.size:,}, {sample.side}")
    found = summary.medians(samples)
    outcomes = summary.targets(found, plan)
    path = results.path(output, "growth")
    content = {"machine": machine, "plan": asdict(plan), "samples": samples, "targets": outcomes}
    results.write_json(path.with_suffix(".json"), content)
    plot.write(found, path.with_suffix(".png"))
    console().print(summary.table(found), report.targets(outcomes))
    console().print(f"{path}.json, {path}.png", soft_wrap=True)
