# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks clients``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import click
from rich.table import Table

from benchmarks import client_load, report, results
from benchmarks.borrowed import stage as servers
from benchmarks.client_load import CLIENTS, STOCK_CLIENT, TRACKER_CLIENT, ClientFigures, ClientJob
from benchmarks.commands.terminal import console, progress
from benchmarks.generator import median_of
from benchmarks.sides import HOST, OURS, QUEUE_TYPES, running
from benchmarks.targets import outcome


@click.command()
@click.option("--calls", type=click.IntRange(min=20), default=5000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--queue", type=click.Choice(list(QUEUE_TYPES)), default="classic", show_default=True)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=results.DIRECTORY,
    help="Directory of the JSON file.",
)
def command(calls: int, rounds: int, queue: str, output: Path) -> None:
    """Compare the stock client and TrackerClient in a scheduler of one thread, on the same worker."""
    measured: defaultdict[str, list[ClientFigures]] = defaultdict(list)
    with progress() as shown, servers() as stage, running(stage, OURS, queue) as server:
        machine = results.machine(rabbitmq=stage.broker_version)
        task = shown.add_task("", total=rounds * len(CLIENTS))
        for number in range(rounds):
            for client in CLIENTS if number % 2 == 0 else CLIENTS[::-1]:
                shown.update(task, description=f"round {number + 1}: {client}")
                job = ClientJob(
                    client=client,
                    url=server.url,
                    host=HOST,
                    calls=calls,
                    warmup=min(200, calls),
                    seed=str(number),
                    server=server.watched["server"],
                )
                measured[client].append(client_load.run(job))
                shown.advance(task)
    found = {client: median_of(figures) for client, figures in measured.items()}
    ratio = found[TRACKER_CLIENT].calls_per_second / found[STOCK_CLIENT].calls_per_second
    outcomes = [outcome(f"throughput, one thread: {TRACKER_CLIENT} / {STOCK_CLIENT}", ">=", 4.0, ratio)]
    path = results.path(output, "clients").with_suffix(".json")
    results.write_json(path, {"machine": machine, "samples": measured, "targets": outcomes})
    console().print(_table(found), report.targets(outcomes))
    console().print(str(path), soft_wrap=True)


def _table(found: dict[str, ClientFigures]) -> Table:
    table = Table(title="One thread that claims; medians over the rounds; CPU in microseconds per call")
    table.add_column("client")
    for column in ("calls/s", "p50 ms", "client", "server"):
        table.add_column(column, justify="right")
    for client, figures in found.items():
        table.add_row(
            client,
            f"{figures.calls_per_second:.0f}",
            f"{figures.p50_ms:.2f}",
            f"{figures.client_us:.0f}",
            f"{figures.server_us:.0f}",
        )
    return table
