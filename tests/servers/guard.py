# SPDX-License-Identifier: Apache-2.0
"""Ends every process that a test run has started, when the run itself cannot.

As a program: ``guard.py TOKEN``. It waits for the end of its standard input, which its owner holds open.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_NAME = "TRACKER_TESTS_RUN"
_SECONDS = 30


class Guard:
    """From ``open`` on, every process that this process starts ends with it at the latest, even when it is killed. Linux only.

    Started processes carry a mark in their environment, and a separate process, which no Ctrl-C reaches, ends all
    processes with the mark. pytest-xdist gives its processes ten seconds after Ctrl-C, then kills them; a test in the
    middle of a fault needs longer.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        token = secrets.token_hex(16)
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, token], stdin=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        os.environ[_NAME] = token

    def remove(self, directory: Path) -> None:
        """Remove ``directory`` too at the end."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{directory}\n".encode())

    def close(self) -> None:
        """Returns when all marked processes have ended. No effect if the guard was not opened."""
        if self._process is not None:
            del os.environ[_NAME]
            self._process.communicate(timeout=_SECONDS)
            self._process = None


def main() -> None:
    mark = f"{_NAME}={sys.argv[1]}".encode()
    directories = sys.stdin.read().splitlines()
    deadline = time.monotonic() + _SECONDS / 2
    pause = threading.Event()
    while (marked := _marked(mark)) and time.monotonic() < deadline:
        for number in marked:
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        pause.wait(0.1)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _marked(mark: bytes) -> list[int]:
    """The processes that were started with ``mark`` in their environment. An ended process has no environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # the process has ended or belongs to another user
        if mark in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()
