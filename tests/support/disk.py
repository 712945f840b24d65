# SPDX-License-Identifier: Apache-2.0
"""A disk for a worker's SQLite file that a test can fill to the last byte."""

from __future__ import annotations

import errno
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

_FULL = "TRACKER_TEST_DISK_IS_FULL"
_ROOT = Path(__file__).parents[2]
_MEBIBYTES = 4


class Disk(ABC):
    """A small disk. ``path`` is the directory for the file; processes that use it must be started with ``environment``."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path = path
        self.environment = environment

    @abstractmethod
    def fill(self) -> None:
        """Fill the disk completely."""

    @abstractmethod
    def free(self) -> None:
        """Undo ``fill``."""


class _Mounted(Disk):
    """A file system in memory."""

    def fill(self) -> None:
        with (self.path / "ballast").open("wb", buffering=0) as ballast:
            for size in (65536, 4096):
                try:
                    while ballast.write(b"\0" * size) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        (self.path / "ballast").unlink()


class _Limited(Disk):
    """A disk for test runs that may not mount: SQLite limits the size of its file and raises the same SQLITE_FULL."""

    def fill(self) -> None:
        Path(self.environment[_FULL]).touch()

    def free(self) -> None:
        Path(self.environment[_FULL]).unlink()


@contextmanager
def small_disk(directory: Path) -> Iterator[Disk]:
    """Make a disk of a few MiB below ``directory``. The processes that use it must end before the body ends."""
    path = directory / "disk"
    path.mkdir()
    # Some containers do not let root mount.
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_MEBIBYTES}m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        # Python imports this module at its start, if it exists.
        (directory / "sitecustomize.py").write_text(f"from {__name__} import limit\nlimit()\n", encoding="utf-8")
        python_path = os.pathsep.join([str(directory), str(_ROOT)])
        yield _Limited(path, {"PYTHONPATH": python_path, _FULL: str(directory / "full")})
        return
    try:
        yield _Mounted(path, {})
    finally:
        subprocess.run(["umount", str(path)], check=True)


def limit() -> None:
    """Keep every SQLite file of this process from growing while the file named by the environment's _FULL exists."""

    @sa.event.listens_for(sa.Engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # SQLite raises a maximum below the present size to the present size.
        pages = 1 if Path(os.environ[_FULL]).exists() else 2**30
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").all()
