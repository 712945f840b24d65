# SPDX-License-Identifier: Apache-2.0
"""The tables of the demo."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table


def table(title: str, first: str, figures: Iterable[str], last: str = "") -> Table:
    """An empty table: a column of names, columns of figures, and one for a verdict if ``last`` is not empty."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1), collapse_padding=True)
    made.add_column(first, no_wrap=True)
    for name in figures:
        made.add_column(name, justify="right", no_wrap=True)
    if last:
        made.add_column(last, justify="center")
    return made
