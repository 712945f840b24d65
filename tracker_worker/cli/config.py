# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker config``: the configuration file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tracker_worker.cli.context import CommandFailed, Commands, example


@click.group(cls=Commands, epilog=example("config sample"))
def config() -> None:
    """Print a sample configuration file."""


@config.command(epilog=example("config sample --output worker.conf"))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of stdout.")
@click.option("--force", is_flag=True, help="Replace the file of --output if there is one.")
def sample(output: Path | None, force: bool) -> None:
    """Print a sample configuration file.

    It has every option that a worker reads, commented out, with its default and its meaning. Only its user can read the file of
    --output, because passwords will be written into it.
    """
    from tracker_worker.cli.sample import sample_configuration

    if force and output is None:
        raise click.UsageError("--force is for --output")
    text = sample_configuration()
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        _write(output, text, replace=force)
    except FileExistsError as error:
        raise CommandFailed(f"{output} exists: it is replaced with --force only") from error
    except OSError as error:
        raise CommandFailed(f"{output} cannot be written: {error.strerror}") from error


def _write(path: Path, text: str, *, replace: bool) -> None:
    """Write a file that only its user can read. One that is replaced is so as a whole. Raises FileExistsError, OSError."""
    from tracker_worker.files import create_private

    written = path.with_name(f".{path.name}.{os.getpid()}") if replace else path
    create_private(written)
    try:
        written.write_text(text, encoding="utf-8")
        if replace:
            written.replace(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
