# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks compare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from benchmarks import plot, report, results, targets
from benchmarks.borrowed import stage as servers
from benchmarks.commands.terminal import console, progress
from benchmarks.compare import Plan, Sample, compare, summary
from benchmarks.sides import QUEUE_TYPES, SIDES, WATCHED


@click.command()
@click.option(
    "--quick",
    is_flag=True,
    help="First figures in a few minutes: one round of 1000 calls with 1, 64 and 256 in flight.",
)
@click.option("--calls", type=click.IntRange(min=20), help="Calls in each measurement.  [default: 5000]")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of all measurements.  [default: 3]")
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    multiple=True,
    help="Calls in flight; repeatable.  [default: 1, 16, 64, 256]",
)
@click.option(
    "--queue", type=click.Choice(list(QUEUE_TYPES)), multiple=True, help="Queue type; repeatable.  [default: both]"
)
@click.option(
    "--side", type=click.Choice([*SIDES, WATCHED]), multiple=True, help="Side; repeatable.  [default: all but the last]"
)
@click.option(
    "--others", type=click.FloatRange(0, 1), default=0.0, help="Share of calls that finish or update a claim."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=results.DIRECTORY,
    help="Directory of JSON and plot.",
)
def command(
    quick: bool,
    calls: int | None,
    rounds: int | None,
    in_flight: tuple[int, ...],
    queue: tuple[str, ...],
    side: tuple[str, ...],
    others: float,
    seed: int,
    output: Path,
) -> None:
    """Compare the worker with stock servers and with the limit, on the same broker."""
    plan = Plan(
        calls=calls or (1000 if quick else 5000),
        rounds=rounds or (1 if quick else 3),
        in_flight=sorted(in_flight) or ((1, 64, 256) if quick else (1, 16, 64, 256)),
        queue_types=queue or tuple(QUEUE_TYPES),
        sides=side or SIDES,
        others=others,
        seed=seed,
    )
    samples: list[Sample] = []
    with progress() as shown, servers() as stage:
        machine = results.machine(rabbitmq=stage.broker_version)
        task = shown.add_task("", total=plan.measurements)
        for sample in compare(plan, stage, lambda doing: shown.update(task, description=doing)):
            samples.append(sample)
            shown.advance(task)
    found = summary(samples)
    outcomes = targets.held_against(found)
    path = results.path(output, "compare")
    content = {"machine": machine, "plan": asdict(plan), "samples": samples, "targets": outcomes}
    results.write_json(path.with_suffix(".json"), content)
    plot.write(found, path.with_suffix(".png"))
    console().print(report.comparison(found), report.targets(outcomes))
    console().print(f"{path}.json, {path}.png", soft_wrap=True)
