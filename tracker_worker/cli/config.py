# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker config``: the configuration file."""

from __future__ import annotations

from pathlib import Path

import click

from tracker_worker.cli.context import CommandFailed, Commands, example


@click.group(cls=Commands, epilog=example("config sample"))
def config() -> None:
    """Print a sample configuration file."""


@config.command(epilog=example("config sample --output worker.conf"))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of stdout.")
def sample(output: Path | None) -> None:
    """Print a sample configuration file.

    It has every option that a worker reads, commented out, with its default and its meaning.
    """
    from tracker_worker.cli.sample import sample_configuration

    text = sample_configuration()
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{output} cannot be written: {error.strerror}") from error
