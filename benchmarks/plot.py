# SPDX-License-Identifier: Apache-2.0
"""The plot of the figures over the number of calls in flight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.compare import Key
from benchmarks.job import Figures

_ROWS: tuple[tuple[str, Callable[[Figures], float]], ...] = (
    ("calls/s", lambda figures: figures.calls_per_second),
    ("p50 ms", lambda figures: figures.p50_ms),
    ("p99 ms", lambda figures: figures.p99_ms),
)


def write(found: Mapping[Key, Figures], path: Path) -> None:
    """Plot a column for each queue type, a row each for throughput, p50 and p99, and a line for each side."""
    import matplotlib as mpl  # imported here because the import is slow

    mpl.use("agg")
    from matplotlib import pyplot as plt

    queue_types = list(dict.fromkeys(queue_type for queue_type, _, _ in found))
    figure, grid = plt.subplots(
        len(_ROWS), len(queue_types), squeeze=False, sharex=True, sharey="row", figsize=(6 * len(queue_types), 10)
    )
    for column, queue_type in enumerate(queue_types):
        for row, (label, read) in enumerate(_ROWS):
            axes = grid[row][column]
            for side in dict.fromkeys(side for kind, side, _ in found if kind == queue_type):
                points = sorted((n, read(one)) for (k, s, n), one in found.items() if (k, s) == (queue_type, side))
                axes.plot(*zip(*points, strict=True), marker="o", label=side)
            levels = sorted({in_flight for _, _, in_flight in found})
            axes.set_xscale("log", base=2)
            axes.set_xticks(levels, [str(level) for level in levels])
            if label != "calls/s":
                axes.set_yscale("log")
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
        grid[0][column].set_title(f"{queue_type} queues")
        grid[-1][column].set_xlabel("calls in flight")
    grid[0][0].set_ylim(bottom=0)  # last, because it ends the scaling of the whole row
    grid[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
