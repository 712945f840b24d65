# SPDX-License-Identifier: Apache-2.0
"""Output on stdout: a table for people, or one JSON document for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from tracker_worker.domain.resources import STANDARD

JSON = "json"
# The width in columns when stdout is not a terminal: no cell is folded, so that every line can be searched.
_UNFOLDED = 10_000
# An amount, used/total, or "-" for no value.
_FIGURE = re.compile(r"-?\d+(/(-|-?\d+))?|-")

format_option = click.option(
    "--format",
    "style",
    type=click.Choice(["table", JSON]),
    default="table",
    show_default=True,
    help="Print a table for people, or one JSON document for programs.",
)


def show_json(value: Any) -> None:
    """Print one JSON document, in ASCII whatever stdout's encoding is."""
    click.echo(json.dumps(value, indent=2))


def stream_json(pages: Iterable[Sequence[Any]]) -> None:
    """Print one JSON document page by page: a list with one value a line."""
    begun = False
    for page in pages:
        if page:
            click.echo((",\n" if begun else "[\n") + ",\n".join(map(json.dumps, page)), nl=False)
            begun = True
    click.echo("\n]" if begun else "[]")


def stream_table(columns: Sequence[str], pages: Iterable[Sequence[Sequence[Any]]], *, empty: str) -> None:
    """Print a table page by page, or the sentence ``empty`` when there are no rows. A column is as wide as its widest cell up
    to the end of the page."""
    widths: list[int] = []
    for page in pages:
        cells = [list(map(plain, row)) for row in page]
        widest = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        if not widths:
            widths = widest
            click.echo("  ".join(map(str.ljust, columns, widths)).rstrip())
            click.echo("-" * (sum(widths) + 2 * (len(widths) - 1)))
        widths = list(map(max, widths, widest))
        click.echo("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells))
    if not widths:
        click.echo(empty)


def show_table(columns: Sequence[str], rows: Iterable[Iterable[Any]], *, empty: str) -> None:
    """Print a table with figures aligned to the right, or the sentence ``empty`` when there are no rows."""
    from rich import box  # imported late: JSON output does not need it
    from rich.console import Console
    from rich.table import Table

    cells = [[plain(cell) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, title in enumerate(columns):
        figures = all(_FIGURE.fullmatch(row[index]) for row in cells)
        table.add_column(title, justify="right" if figures else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _UNFOLDED
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)


def show_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Print the fields of one object, one field a line."""
    show_table(("Field", "Value"), fields, empty="")


def others(amounts: Mapping[str, object]) -> str:
    """Return the amounts of custom classes, given by class name, as one cell; '' if there are none."""
    return " ".join(f"{name}={amount}" for name, amount in amounts.items() if name not in STANDARD)


def to_seconds(time: str | None) -> str | None:
    """Return an ISO 8601 time that ends with Z without its fraction of a second, to keep tables narrow."""
    return None if time is None else re.sub(r"\.\d+Z$", "Z", time)


def plain(value: Any) -> str:
    """Return a value as text without control characters, in characters that stdout can encode.

    Names come from outside: a terminal must show escape sequences in them, not obey them.
    """
    if value is None:
        return "-"
    if not isinstance(value, str):
        value = json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
    if value.isascii() and value.isprintable():
        return value
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in value
    )
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
