# SPDX-License-Identifier: Apache-2.0
"""Who runs a command that changes the database."""

from __future__ import annotations

import getpass
import os
import socket


def user() -> str:
    """Return the name of the user of this process, or the number if there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def asked(method: str) -> bytes:
    """Return what the outbox keeps of a change that the user of this process makes with the command ``method``."""
    from tracker_worker.service.requests.asked import asked_by

    return asked_by(f"{socket.gethostname()}:{os.getpid()}", method=method, context={"user_id": user()})
