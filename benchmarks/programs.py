# SPDX-License-Identifier: Apache-2.0
"""The programs of the extra ``bench``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click


def program(name: str) -> str:
    """The path of a program, preferably of this environment.

    Raises ClickException: it is not installed.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise click.ClickException(f"{name} is not installed; it comes with the extra 'bench'")
    return found
