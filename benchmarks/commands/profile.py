# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks profile``: shows how the worker spends its time under load, by thread."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from benchmarks import job, results, stacks
from benchmarks.borrowed import stage as servers
from benchmarks.commands.terminal import console
from benchmarks.sides import HOST, OURS, OURS_POSTGRESQL, QUEUE_TYPES, running
from benchmarks.spying import sampled

# The table leaves out the outermost functions of a thread: each has all of the thread's time.
_ROOTS = 6


@click.command()
@click.option("--queue", type=click.Choice(list(QUEUE_TYPES)), default="classic", show_default=True)
@click.option("--side", type=click.Choice([OURS, OURS_POSTGRESQL]), default=OURS, show_default=True)
@click.option("--in-flight", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--calls", type=click.IntRange(min=20), default=10000, show_default=True)
@click.option("--rate", type=click.IntRange(min=1), default=400, show_default=True, help="Samples per second.")
@click.option("--idle", is_flag=True, help="Count waiting threads too: they show where an idle core could have worked.")
@click.option("--top", type=click.IntRange(min=1), default=15, show_default=True, help="Functions listed per thread.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=results.DIRECTORY,
    help="Directory of the raw stacks and the JSON file.",
)
def command(queue: str, side: str, in_flight: int, calls: int, rate: int, idle: bool, top: int, output: Path) -> None:
    """Rank functions by own and by total time, in percent of the samples of all threads."""
    raw = results.path(output, "profile").with_suffix(".raw")
    with servers() as stage, running(stage, side, queue) as server:
        machine = results.machine(rabbitmq=stage.broker_version)
        load = {"hosts": [HOST], "in_flight": in_flight, "watched": server.watched, "notifications": ""}
        job.run(server.url, calls=min(2000, calls), warmup=0, seed="warm", **load)
        with sampled(server.watched["server"], raw, rate=rate, idle=idle):
            figures = job.run(server.url, calls=calls, warmup=min(500, calls), seed="profile", **load)
    threads = stacks.read(raw.read_text(encoding="utf-8").splitlines())
    samples = sum(thread.samples for thread in threads.values())
    path = raw.with_suffix(".json")
    content = {"machine": machine, "side": side, "in_flight": in_flight, "samples": [figures], "threads": threads}
    results.write_json(path, content)
    out = console()
    out.print(f"{side}: {figures.calls_per_second:.0f} calls/s while it was watched")
    for name, thread in threads.items():
        if thread.samples > samples / 100:
            out.print(_table(name, thread, samples, top))
    out.print(f"{raw}, {path}", soft_wrap=True)


def _table(name: str, thread: stacks.Thread, samples: int, top: int) -> Table:
    table = Table(title=f"{name}: {thread.samples / samples:.0%} of all samples", title_justify="left")
    for column in ("own %", "function", "total %", "function"):
        table.add_column(column, justify="right" if column.endswith("%") else "left", no_wrap=True)
    for (own, own_count), (total, total_count) in zip(
        thread.own.most_common(top), thread.total.most_common(top + _ROOTS)[_ROOTS:], strict=False
    ):
        table.add_row(f"{own_count / samples:.1%}", own, f"{total_count / samples:.1%}", total)
    return table
