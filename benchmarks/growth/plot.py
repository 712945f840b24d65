# SPDX-License-Identifier: Apache-2.0
"""The plot of cost over size."""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth.experiments import ALLOCATIONS, HOSTS
from benchmarks.growth.summary import Found


def write(found: Found, path: Path) -> None:
    """Plot throughput and the server's CPU per call, over allocations and over hosts."""
    import matplotlib as mpl  # imported here because the import is slow

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(2, 2, sharex="col", sharey="row", figsize=(11, 7))
    for column, experiment in enumerate((ALLOCATIONS, HOSTS)):
        for side in dict.fromkeys(side for name, _, side in found if name == experiment):
            points = [
                (size, one.figures) for (name, size, at), one in found.items() if (name, at) == (experiment, side)
            ]
            sizes = [size for size, _ in points]
            grid[0][column].plot(sizes, [one.calls_per_second for _, one in points], marker="o", label=side)
            grid[1][column].plot(sizes, [one.cpu_us["server"] for _, one in points], marker="o")
            grid[0][column].legend()
        grid[0][column].set_xscale("log")
        grid[1][column].set_xlabel(experiment)
    grid[0][0].set_ylabel("calls/s")
    grid[1][0].set_ylabel("server CPU, us per call")
    for axes in grid.flat:
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
