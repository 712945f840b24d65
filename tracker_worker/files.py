# SPDX-License-Identifier: Apache-2.0
"""Files and directories that only the user of this process may use, whatever the umask. Any thread may call these functions."""

from __future__ import annotations

import os
from pathlib import Path

_FILE = 0o600
_DIRECTORY = 0o700


def create_private(path: Path) -> None:
    """Create an empty file that only its user can read and write.

    Raises FileExistsError; other OSError: it cannot be created.
    """
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _FILE)
    try:
        os.fchmod(file, _FILE)  # the umask may have taken more than the file is to lack
    finally:
        os.close(file)


def ensure_private_directory(path: Path) -> None:
    """Create the directory, and those above it, unless it exists; then its mode stays as it is. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=_DIRECTORY)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        path.chmod(_DIRECTORY)
