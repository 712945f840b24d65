# SPDX-License-Identifier: Apache-2.0
"""What goes to stdout: a table for eyes, or one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

JSON = "json"
# Not a terminal: nothing is folded, so that every line can be searched.
_UNFOLDED = 10_000

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


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Numbers are aligned to the right. ``empty`` is the sentence for no rows at all."""
    from rich import box  # here: a program that wants JSON does not wait for it
    from rich.console import Console
    from rich.table import Table

    listed = [list(row) for row in rows]
    if not listed:
        click.echo(empty)
        return
    table = Table(box=box.SIMPLE_HEAD)
    for index, title in enumerate(columns):
        numbers = all(isinstance(row[index], int) or row[index] is None for row in listed)
        table.add_column(title, justify="right" if numbers else "left", overflow="fold")
    for row in listed:
        table.add_row(*(plain(cell) for cell in row))
    width = None if sys.stdout.isatty() else _UNFOLDED
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)


def show_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """A single thing, one field a line."""
    show_table(("Field", "Value"), [(name, plain(value)) for name, value in fields], empty="")


def plain(value: Any) -> str:
    """Text that a terminal shows and does not obey: names come from outside."""
    if value is None:
        return "-"
    if isinstance(value, dict | list | bool):
        value = json.dumps(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
