# SPDX-License-Identifier: Apache-2.0
"""The tables of the demo: the layout of every command's tables, with a title and with colours."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from tracker_worker.cli.table import Table, column, figure

AGREES = "agrees"
DIFFERS = "DIFFERS"
_INDENT = 2
_RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"


class DemoTable:
    """A table on a Console of rich. Its names and figures are never folded."""

    def __init__(self, title: str, first: str, figures: Iterable[str], last: str = "") -> None:
        """``first`` is the title of the names, ``last`` that of a column for verdicts, if it is not empty."""
        self._title = title
        self._columns = [column(first), *(figure(name, number + 2) for number, name in enumerate(figures))]
        if last:
            self._columns.append(column(last, 1))
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        self._rows.append(cells)

    def show(self, console: Console) -> None:
        """Print the table."""
        rule = "-" if console.options.ascii_only else _RULE
        layout = Table(self._columns, width=console.width - _INDENT - 1, rule=rule)
        console.print(Text(f"{self._title}\n", style="table.title"))
        for line in layout.page(self._rows):
            is_rule = bool(line) and not line.strip(rule)
            text = Text(f" {rule}{line}{rule}" if is_rule else " " * _INDENT + line)
            text.highlight_words([AGREES], "green")
            text.highlight_words([DIFFERS], "red")
            console.print(text, soft_wrap=True)  # a line that is too wide is one name, and is not folded
        console.print()
