# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker completion``: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from tracker_worker.cli.context import PROJECT, example

_VARIABLE = "_TRACKER_WORKER_COMPLETE"


@click.command(epilog=example("completion bash > tracker-worker.bash", "completion zsh > _tracker-worker"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which a shell completes commands, options and choices.

    bash reads it from ~/.local/share/bash-completion/completions/tracker-worker, zsh from a file _tracker-worker in a directory
    of $fpath, fish from ~/.config/fish/completions/tracker-worker.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, PROJECT, _VARIABLE).source())
