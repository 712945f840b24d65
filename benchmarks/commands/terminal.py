# SPDX-License-Identifier: Apache-2.0
"""What the subcommands write to."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# Of the widest table: a file has no width of its own.
_WIDTH = 165


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


def progress() -> Progress:
    """A bar, and above it what is being measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console())
