# SPDX-License-Identifier: Apache-2.0
"""The console script ``tracker-worker``. Imports are slow: a subcommand's module is imported only when it is needed."""

from __future__ import annotations

import importlib

import click

from tracker_worker.cli.context import Commands, Settings, example
from tracker_worker.text import printable

_COMMANDS = {
    "serve": "serve",
    "check": "check.command",
    "demo": "demo.command",
    "node": "node",
    "host": "host",
    "claim": "claim",
    "move": "move",
    "instance": "instance",
    "usage": "usage",
    "audit": "audit",
    "history": "history",
    "watch": "watch",
    "db": "db",
    "outbox": "outbox",
    "dead-letter": "dead_letters.command",
    "rabbitmq": "rabbitmq",
    "config": "config",
    "schema": "schema",
    "completion": "completion",
}


class _LazyCommands(Commands):
    """Imports the module of a subcommand when the subcommand is used or its help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        for argument in args:
            try:
                argument.encode()
            except UnicodeEncodeError:
                raise click.UsageError(f"an argument is not text in UTF-8: {printable(argument)}", ctx) from None
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(
            importlib.import_module(f"tracker_worker.cli.{module}"), cmd_name.replace("-", "_")
        )
        return command


def _show_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from tracker_worker.cli.version import version_line

        click.echo(version_line())
        ctx.exit()


@click.command(
    cls=_LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("--config-file worker.conf serve", "node list --format json"),
)
@click.option(
    "--config-file", "config_files", multiple=True, metavar="FILE", help="Read this configuration file; repeatable."
)
@click.option(
    "--config-dir",
    "config_dirs",
    multiple=True,
    metavar="DIR",
    help="Read every *.conf file of this directory; repeatable.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version, with those of the RPC API, the database's schema, Python and oslo.messaging, and exit.",
)
@click.pass_context
def main(ctx: click.Context, config_files: tuple[str, ...], config_dirs: tuple[str, ...]) -> None:
    """The resource-claim ledger of compute hosts, served over RabbitMQ.

    Exit codes: 0 done, 1 refused or failed (with one sentence on stderr), 2 wrong usage. Those of check are its own.
    """
    ctx.obj = Settings(config_files, config_dirs)
