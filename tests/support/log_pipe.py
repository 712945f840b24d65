# SPDX-License-Identifier: Apache-2.0
"""The log of a worker as a service manager takes it: through a pipe, with a reader that may stop reading."""

from __future__ import annotations

import array
import fcntl
import os
import termios
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.deadline import wait_until
from tests.support.worker_process import WorkerProcess

# The smallest pipe that Linux makes: a few lines fill it.
_BYTES = 4096


class LogPipe:
    """Writes to ``path`` what arrives in the pipe, until every process has closed ``writer``. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, _BYTES)
        self._reading = threading.Event()
        self._reading.set()
        self._thread = threading.Thread(target=self._run, name="log-pipe", daemon=True)

    def start(self, worker: WorkerProcess) -> None:
        """Start ``worker`` with the pipe as its stderr. The reader ends with the worker."""
        self._thread.start()
        try:
            worker.start(stderr=self.writer)
        finally:
            os.close(self.writer)

    def hold(self, write: Callable[[], None] = lambda: None) -> None:
        """Stop reading. Returns when the pipe is so full that a line of the log does not fit; ``write`` makes the worker write
        a line, if nobody else does.
        """
        self._reading.clear()

        def is_full() -> bool:
            write()
            return self._is_full()

        wait_until(is_full, "nobody reads the log, and its pipe is full")

    def release(self) -> None:
        """Read again."""
        self._reading.set()

    def _is_full(self) -> bool:
        waiting = array.array("i", [0])
        fcntl.ioctl(self._reader, termios.FIONREAD, waiting)
        return waiting[0] > _BYTES * 3 // 4

    def _run(self) -> None:
        with os.fdopen(self._reader, "rb", buffering=0) as reader, self._path.open("ab") as log:
            while True:
                self._reading.wait()
                if not (piece := reader.read(_BYTES)):
                    return
                log.write(piece)
                log.flush()
