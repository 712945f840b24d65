# SPDX-License-Identifier: Apache-2.0
"""Output on stdout: a table for people, or one JSON document for programs; and the options that choose between them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from tracker_worker.cli.table import Column, Table, field_lines, wrapped
from tracker_worker.domain.resources import STANDARD

JSON = "json"
_Command = TypeVar("_Command", bound=Callable[..., Any])
# What the options and the output of a command leave for whoever ends it, by name of ``click.Context.meta``.
_STYLE = "tracker_worker.style"
_WIDE = "tracker_worker.wide"
_BEGUN = "tracker_worker.begun"
# Fields whose value is a text, or a list of words; every other value is a name or a figure, and is never folded.
_PROSE = re.compile(r"(headers|properties)\..*|.*reason|problem|cpu_info|(old_)?resources|standbys")


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def keep(context: click.Context, _option: click.Parameter, value: Any) -> Any:
        context.meta[name] = value
        return value

    return keep


def format_option_with(help_text: str) -> Callable[[_Command], _Command]:
    """The option --format: the argument ``style`` of the command is "table" or JSON."""
    return click.option(
        "--format",
        "style",
        type=click.Choice(["table", JSON]),
        default="table",
        show_default=True,
        is_eager=True,
        callback=_keep(_STYLE),
        help=help_text,
    )


format_option = format_option_with("Print a table for people, or one JSON document for programs, also for an error.")
"""For a command that shows something."""

_wide_option = click.option(
    "--wide",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_keep(_WIDE),
    help="Show every column, in a narrow terminal one field a line.",
)


def table_options(command: _Command) -> _Command:
    """``format_option`` and --wide, for a command that uses ``show_table`` or ``stream_table``."""
    return format_option(_wide_option(command))


def wants_json(meta: Mapping[str, Any], *, otherwise: bool) -> bool:
    """Whether the command with this ``Context.meta`` has got --format json; ``otherwise``: if its options were not read."""
    return bool(meta[_STYLE] == JSON) if _STYLE in meta else otherwise


def has_begun(meta: Mapping[str, Any]) -> bool:
    """Whether a JSON document was begun on stdout."""
    return bool(meta.get(_BEGUN))


def _meta() -> dict[str, Any]:
    context = click.get_current_context(silent=True)
    return {} if context is None else context.meta


def show_json(value: Any) -> None:
    """Print one JSON document, in ASCII whatever stdout's encoding is."""
    _meta()[_BEGUN] = True
    click.echo(json.dumps(value, indent=2))


def stream_json(pages: Iterable[Sequence[Any]]) -> None:
    """Print one JSON document page by page: a list with one value a line."""
    begun = False
    for page in pages:
        if page:
            _meta()[_BEGUN] = True
            click.echo((",\n" if begun else "[\n") + ",\n".join(map(json.dumps, page)), nl=False)
            begun = True
    click.echo("\n]" if begun else "[]")


def terminal_width() -> int | None:
    """The number of columns for tables: COLUMNS, or that of the terminal; None: stdout is no terminal, so that no line is
    folded and every line can be searched."""
    columns = os.environ.get("COLUMNS", "")
    # Together with LINES nobody has asked for it: GNU readline sets both for what its program starts, perhaps a script that
    # reads this output through a pipe.
    if columns.isdecimal() and int(columns) and "LINES" not in os.environ:
        return int(columns)
    try:
        return (os.get_terminal_size(sys.stdout.fileno()).columns or None) if sys.stdout.isatty() else None
    except OSError:
        return None


def stream_table(columns: Sequence[Column], pages: Iterable[Sequence[Sequence[Any]]], *, empty: str) -> None:
    """Print a table page by page, or the sentence ``empty`` when there are no rows. Columns that were left out are named on
    stderr."""
    table = Table(
        columns,
        width=terminal_width(),
        everything=bool(_meta().get(_WIDE)),
        rule=plain("\N{BOX DRAWINGS LIGHT HORIZONTAL}")[:1].replace("\\", "-"),
    )
    begun = False
    for page in pages:
        if page:
            begun = True
            click.echo("\n".join(table.page([list(map(plain, row)) for row in page])))
    if not begun:
        click.echo(empty)
    if table.hidden:
        text = f"Not shown for want of room: {', '.join(table.hidden)}; --wide shows everything."
        click.echo("\n".join(wrapped(text, terminal_width())), err=True)


def show_table(columns: Sequence[Column], rows: Iterable[Iterable[Any]], *, empty: str) -> None:
    """Print a table, or the sentence ``empty`` when there are no rows."""
    stream_table(columns, [[list(row) for row in rows]], empty=empty)


def say(text: str) -> None:
    """Print a sentence that belongs to a table, wrapped between its words."""
    click.echo("\n".join(wrapped(plain(text), terminal_width())))


def show_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Print the fields of one object, one field a line."""
    lines = [(plain(name), plain(value), _PROSE.fullmatch(name) is not None) for name, value in fields]
    click.echo("\n".join(field_lines(lines, terminal_width())))


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
