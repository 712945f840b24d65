# SPDX-License-Identifier: Apache-2.0
"""The commands of the command line: their options, their examples, and the schemas of what they print."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import jsonschema

from tracker_worker.cli.main import main
from tracker_worker.cli.schemas.table import OUTPUTS, schema_of


def _walk(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield (*path, name), command
            if isinstance(command, click.Group):
                yield from _walk(command, *path, name)


# What other programs may write too, with keys of their own.
_OPEN = {"Message", "CloudEvent"}
COMMANDS = dict(_walk(main))
"""Every command and every group, by its words."""


def with_option(option: str) -> list[str]:
    """The commands that have this option, each as its words."""
    return [
        " ".join(words) for words, command in COMMANDS.items() if any(option in each.opts for each in command.params)
    ]


def examples(command: click.Command) -> list[list[str]]:
    """The examples in the help of a command, each as its arguments."""
    text = re.sub(r"\\\n\s*", "", command.epilog or "")
    lines = [line.rpartition("|")[2].strip() for line in text.splitlines()[2:]]
    return [shlex.split(line.removeprefix("tracker-worker "), posix=True) for line in lines]


def without_redirection(arguments: list[str]) -> list[str]:
    """The arguments of an example in front of a ``>``."""
    return arguments[: arguments.index(">")] if ">" in arguments else arguments


@functools.cache
def _validator(command: str) -> jsonschema.Draft202012Validator:
    schema = schema_of(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    # What the schema does not name must not be there: otherwise nobody would notice that it is not described.
    for name, definition in schema["$defs"].items():
        if name not in _OPEN:
            definition.setdefault("additionalProperties", False)
    return jsonschema.Draft202012Validator(schema)


def check_output(arguments: tuple[str, ...], printed: Any) -> None:
    """Check that what a command has printed with --format json is what its schema says, and nothing else."""
    command = next(words for words in (" ".join(arguments[:2]), arguments[0]) if words in OUTPUTS)
    _validator(command).validate(printed)
