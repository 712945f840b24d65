# SPDX-License-Identifier: Apache-2.0
"""The terminal output of the subcommands."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# The width of the widest table, because a file has no width of its own.
_WIDTH = 165


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


def progress() -> Progress:
    """A progress bar with the current measurement above it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console())
