# SPDX-License-Identifier: Apache-2.0
"""Why a subcommand has not done what was asked: one sentence on stderr, and with --format json one JSON document on stdout.

The document is ``{"error": {"code": ..., "message": ..., "kwargs": {...}}}`` on one line. ``code`` is that of a class of
``tracker_worker.errors`` with its facts as ``kwargs``, or one of ``CODES``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from tracker_worker.errors import ConfigurationError, DatabaseUnavailable, TrackerError

USAGE = "usage"
CONFIGURATION = "configuration"
TIMEOUT = "timeout"
NO_WORKER = "no_worker"
NOT_FOUND = "not_found"
BROKER_UNREACHABLE = "broker_unreachable"
STORE_UNAVAILABLE = "store_unavailable"
FAILED = "failed"
CODES = {
    USAGE: "the command line is wrong (exit code 2)",
    CONFIGURATION: "an option or a file of the configuration cannot be used",
    TIMEOUT: "no answer came in time; the request may still be executed",
    NO_WORKER: "no worker serves the host",
    NOT_FOUND: "what the arguments name does not exist",
    BROKER_UNREACHABLE: "no broker answers, or the connection to it was lost",
    STORE_UNAVAILABLE: "there is no database, or it cannot be reached or used",
    FAILED: "refused or failed for another reason, which the message says",
}
"""The codes beside those of ``tracker_worker.errors``, with their meanings."""


class CommandFailed(Exception):
    """A subcommand was refused or has failed. The text is one sentence for the operator; ``code`` is one of ``CODES`` or that
    of a TrackerError, ``kwargs`` are the facts, made of JSON types."""

    def __init__(self, message: str, *, code: str = FAILED, **kwargs: Any) -> None:
        super().__init__(message)
        self.code = code
        self.kwargs = kwargs


def sentence(error: BaseException | str) -> str:
    """The text of an error on one line."""
    return " ".join(str(error).split())


def document(error: BaseException) -> str:
    """The JSON document of an error, on one line and in ASCII."""
    code, message, facts = _described(error)
    return json.dumps({"error": {"code": code, "message": message, "kwargs": facts}}, default=str)


def _described(error: BaseException) -> tuple[str, str, dict[str, Any]]:
    """Code, message and facts."""
    if isinstance(error, click.UsageError):
        return USAGE, error.format_message(), _parameter(error)
    if isinstance(error, click.ClickException):
        return FAILED, error.format_message(), {}
    if isinstance(error, CommandFailed | TrackerError):
        return error.code, sentence(error), error.kwargs
    if isinstance(error, ConfigurationError):
        code = STORE_UNAVAILABLE if isinstance(error, DatabaseUnavailable) else CONFIGURATION
        return code, sentence(error), {}
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return FAILED, "interrupted", {}
    return FAILED, f"unexpected error: {type(error).__name__}: {sentence(error)}", {}


def _parameter(error: click.UsageError) -> dict[str, Any]:
    """The option or the argument that a usage error is about, where click says which."""
    if isinstance(error, click.NoSuchOption):
        return {"parameter": error.option_name}
    if isinstance(error, click.BadParameter) and error.param is not None:
        return {"parameter": error.param.opts[0] if error.param.param_type_name == "option" else error.param.name}
    return {}


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether a command line that could not be read to its end has --format json."""
    wanted = False
    following = [*arguments[1:], ""]
    for argument, value in zip(arguments, following, strict=True):
        if argument == "--":
            break
        if argument.startswith("--format="):
            wanted = argument == "--format=json"
        elif argument == "--format":
            wanted = value == "json"
    return wanted
