# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: runs the comparison unless the command line names another subcommand."""

from __future__ import annotations

import importlib

import click

import tracker_worker.cli.threading_backend  # noqa: F401 first: chooses threads for oslo.service

COMMANDS = ("compare", "growth", "clients", "placement", "workers", "moves", "profile")


class _Group(click.Group):
    """Run ``compare`` when the command line has options only."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*COMMANDS, "--help"):
            args = ["compare", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command: click.Command = importlib.import_module(f"benchmarks.commands.{cmd_name}").command
        return command


@click.command(cls=_Group)
def main() -> None:
    """Measure the worker and other servers side by side. See benchmarks/README.md."""


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
