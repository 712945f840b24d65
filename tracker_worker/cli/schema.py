# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker schema``: the JSON Schema of what a command prints with --format json."""

from __future__ import annotations

import click

from tracker_worker.cli.context import example
from tracker_worker.cli.output import show_json


@click.command(epilog=example("schema node list", "schema claim begin > claim.schema.json"))
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
def schema(words: tuple[str, ...]) -> None:
    """Print the JSON Schema of what COMMAND prints with --format json.

    The first of the alternatives are results, the last one is an error, whose codes are in the documentation. Keys are only
    ever added. Without COMMAND, print the commands that have a schema, one a line.
    """
    from tracker_worker.cli.schemas.table import OUTPUTS, schema_of

    if not words:
        click.echo("\n".join(OUTPUTS))
        return
    command = " ".join(words)
    if command not in OUTPUTS:
        raise click.UsageError(
            f"There is no command {command!r} with --format json; 'schema' lists those that have it."
        )
    show_json(schema_of(command))
