# SPDX-License-Identifier: Apache-2.0
"""The console script ``tracker-worker``. Subcommands are imported when they are asked for, to keep the others quick."""

from __future__ import annotations

import importlib
from importlib.metadata import version

import click

from tracker_worker.cli.context import PROJECT, Commands, Settings

_COMMANDS = {
    "serve": "serve",
    "demo": "demo.command",
    "node": "node",
    "claim": "claim",
    "usage": "usage",
    "audit": "audit",
    "watch": "watch",
    "db": "db",
    "outbox": "outbox",
    "dead-letter": "dead_letters.command",
    "config": "config",
}
# These import oslo.messaging late or not at all; every other one has its backend chosen first.
_QUICK = {"node", "claim", "usage", "db", "outbox", "config"}


class _Lazy(Commands):
    """Finds a subcommand in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        if cmd_name not in _QUICK:
            importlib.import_module("tracker_worker.cli.threading_backend")
        command: click.Command = getattr(
            importlib.import_module(f"tracker_worker.cli.{module}"), cmd_name.replace("-", "_")
        )
        return command


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config-file", "config_files", multiple=True, metavar="FILE", help="Configuration file; repeatable.")
@click.option(
    "--config-dir", "config_dirs", multiple=True, metavar="DIR", help="Directory of *.conf files; repeatable."
)
@click.version_option(version(PROJECT), prog_name=PROJECT)
@click.pass_context
def main(ctx: click.Context, config_files: tuple[str, ...], config_dirs: tuple[str, ...]) -> None:
    """The resource-claim ledger of compute hosts, served over RabbitMQ."""
    ctx.obj = Settings(config_files, config_dirs)
