# SPDX-License-Identifier: Apache-2.0
"""Who runs a command that changes the database, and why."""

from __future__ import annotations

import getpass
import os
import socket

import click


def user() -> str:
    """Return the name of the user of this process, or the number if there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def asked(method: str) -> bytes:
    """Return what the outbox keeps of a change that the user of this process makes with the command ``method``."""
    from tracker_worker.notifications.asked import asked_by

    return asked_by(f"{socket.gethostname()}:{os.getpid()}", method=method, context={"user_id": user()})


def read_reason(_context: click.Context, option: click.Parameter, value: str) -> str:
    """Return the text of an option that says why, without white space at its ends.

    Raises BadParameter: the text cannot be kept, or is longer than any other text of a request, or is empty although the option
    is required.
    """
    from tracker_worker.domain.values import read_text
    from tracker_worker.errors import InvalidInput

    try:
        text = read_text(option.name or "reason", value.strip())
    except InvalidInput as error:
        raise click.BadParameter(error.kwargs["reason"]) from None
    if option.required and not text:
        raise click.BadParameter("must not be empty")
    return text
