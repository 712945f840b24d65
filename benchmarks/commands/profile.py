# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks profile``: shows how the worker spends its time under load, by thread."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
from rich.table import Table

from benchmarks import job, results, stacks
from benchmarks.borrowed import stage as servers
from benchmarks.commands.terminal import console
from benchmarks.programs import program
from benchmarks.sides import HOST, OURS, OURS_POSTGRESQL, QUEUE_TYPES, running

# The table leaves out the outermost functions of a thread: each has all of the thread's time.
_ROOTS = 6


@click.command()
@click.option("--queue", type=click.Choice(list(QUEUE_TYPES)), default="classic", show_default=True)
@click.option("--side", type=click.Choice([OURS, OURS_POSTGRESQL]), default=OURS, show_default=True)
@click.option("--in-flight", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--calls", type=click.IntRange(min=100), default=10000, show_default=True)
@click.option("--rate", type=click.IntRange(min=1), default=400, show_default=True, help="Samples per second.")
@click.option("--idle", is_flag=True, help="Count waiting threads too: they show where an idle core could have worked.")
@click.option("--top", type=click.IntRange(min=1), default=15, show_default=True, help="Functions listed per thread.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=results.DIRECTORY,
    help="Directory of the raw stacks.",
)
def command(queue: str, side: str, in_flight: int, calls: int, rate: int, idle: bool, top: int, output: Path) -> None:
    """Rank functions by own and by total time, in percent of the samples of all threads."""
    raw = results.path(output, "profile").with_suffix(".raw")
    with servers() as stage, running(stage, side, queue) as server:
        load = {"hosts": [HOST], "in_flight": in_flight, "watched": server.watched, "notifications": ""}
        job.run(server.url, calls=min(2000, calls), warmup=0, seed="warm", **load)
        spy = subprocess.Popen(
            [
                program("py-spy"),
                "record",
                "--format=raw",
                "--threads",
                "--nonblocking",
                f"--rate={rate}",
                "--duration=unlimited",
            ]
            + (["--idle"] if idle else [])
            + [f"--output={raw}", f"--pid={server.watched['server']}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        figures = job.run(server.url, calls=calls, warmup=min(500, calls), seed="profile", **load)
        spy.send_signal(2)  # SIGINT, as from Ctrl-C, makes py-spy write its samples
        spy.wait()
    threads = stacks.read(raw.read_text(encoding="utf-8").splitlines())
    out = console()
    out.print(f"{figures.calls_per_second:.0f} calls/s while it was watched")
    samples = sum(thread.samples for thread in threads.values())
    for name, thread in threads.items():
        if thread.samples > samples / 100:
            out.print(_table(name, thread, samples, top))
    out.print(str(raw), soft_wrap=True)


def _table(name: str, thread: stacks.Thread, samples: int, top: int) -> Table:
    table = Table(title=f"{name}: {thread.samples / samples:.0%} of all samples", title_justify="left")
    for column in ("own %", "function", "total %", "function"):
        table.add_column(column, justify="right" if column.endswith("%") else "left", no_wrap=True)
    for (own, own_count), (total, total_count) in zip(
        thread.own.most_common(top), thread.total.most_common(top + _ROOTS)[_ROOTS:], strict=False
    ):
        table.add_row(f"{own_count / samples:.1%}", own, f"{total_count / samples:.1%}", total)
    return table
