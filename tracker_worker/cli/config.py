# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker config``: the configuration file."""

from __future__ import annotations

import io
from pathlib import Path

import click

from tracker_worker.cli.context import CommandFailed

# Of the commented text of an option.
_WRAP = 100


@click.group()
def config() -> None:
    """The configuration file."""


@config.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file, not to stdout.")
def sample(output: Path | None) -> None:
    """Print a sample configuration: every option of a worker with its default and what it is for."""
    text = sample_configuration()
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{output} cannot be written: {error.strerror}") from error


def sample_configuration() -> str:
    """The same on every machine."""
    import tracker_worker.cli.runtime  # noqa: F401 before oslo.messaging, whose options are among it

    from oslo_config import cfg, generator  # noqa: I001

    from tracker_worker.conf.sample import NAMESPACE

    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    arguments = [f"--namespace={NAMESPACE}", f"--wrap-width={_WRAP}", "--format=ini"]
    conf(arguments, default_config_files=[], default_config_dirs=[], use_env=False)
    text = io.StringIO()
    generator.generate(conf, text)
    return text.getvalue()
