# SPDX-License-Identifier: Apache-2.0
"""What goes to stdout: a table for eyes, or one JSON document for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

JSON = "json"
# Not a terminal: nothing is folded, so that every line can be searched.
_UNFOLDED = 10_000
# An amount, or used/total.
_FIGURE = re.compile(r"-?\d+(/(-|-?\d+))?|-")

format_option = click.option(
    "--format",
    "style",
    type=click.Choice(["table", JSON]),
    default="table",
    show_default=True,
    help="Form of the output.",
)


def show_json(value: Any) -> None:
    """One document. ASCII, whatever stdout's encoding is."""
    click.echo(json.dumps(value, indent=2))


def show_table(columns: Sequence[str], rows: Iterable[Iterable[Any]], *, empty: str) -> None:
    """Figures are aligned to the right. ``empty`` is the sentence for no rows at all."""
    from rich import box  # here: a program that wants JSON does not wait for it
    from rich.console import Console
    from rich.table import Table

    listed = [[plain(cell) for cell in row] for row in rows]
    if not listed:
        click.echo(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, title in enumerate(columns):
        figures = all(_FIGURE.fullmatch(row[index]) for row in listed)
        table.add_column(title, justify="right" if figures else "left", overflow="fold")
    for row in listed:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _UNFOLDED
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)


def show_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """A single thing, one field a line."""
    show_table(("Field", "Value"), fields, empty="")


def to_seconds(time: str | None) -> str | None:
    """An ISO 8601 time of ours without its fraction: tables are wide enough."""
    return None if time is None else re.sub(r"\.\d+Z$", "Z", time)


def plain(value: Any) -> str:
    """Text that a terminal shows and does not obey: names come from outside."""
    if value is None:
        return "-"
    if isinstance(value, dict | list | bool):
        value = json.dumps(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
