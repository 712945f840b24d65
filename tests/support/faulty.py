# SPDX-License-Identifier: Apache-2.0
"""A worker that kills itself: ``tracker-worker`` with a hook at a fault point.

As a program: ``faulty.py POINT PASSAGE SIGNAL <arguments of tracker-worker>``. From SIGUSR1 on, the program counts the
passages of POINT. At number PASSAGE, SIGKILL ends it before any code after the point runs, SIGSTOP stops it there,
SIGNAL 0 raises an unexpected error there, and SIGNAL -1 lets the thread hang there.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from tests.support.deadline import wait_until
from tests.support.worker_process import WorkerProcess

_ROOT = Path(__file__).parents[2]
_ARMED = "faulty: armed"
FAILURE = "faulty: a defect"
"""The text of the error that SIGNAL 0 raises."""
HANG = -1
"""The SIGNAL with which the thread at the point never returns, while all other threads go on."""


class FaultyWorker(WorkerProcess):
    """A worker that starts with a fault after ``ail``, until ``heal``."""

    _fault: tuple[str, int, int] | None = None

    def ail(self, point: str, passage: int, number: int = signal.SIGKILL) -> None:
        """Let later starts set a fault: at the ``passage``-th passage of ``point`` after ``arm``, the worker gets this signal.

        With 0, the thread at ``point`` gets an error instead; with HANG, it never returns.
        """
        self._fault = (point, passage, number)

    def heal(self) -> None:
        """Let later starts run without a fault."""
        self._fault = None

    def start(self) -> None:
        if self._fault is None:
            super().start()
            return
        assert self._process is None
        point, passage, number = self._fault
        arguments: list[Any] = [point, passage, int(number), f"--config-file={self.configuration}", "serve"]
        with self.log_path.open("ab") as log:
            self._read_from = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *map(str, arguments)],
                cwd=self.directory,
                env={**self._environment, "PYTHONPATH": str(_ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def arm(self) -> None:
        """Start counting passages. The worker must be ready."""
        self.signal(signal.SIGUSR1)
        self.wait_for_log(_ARMED)

    def wait_stopped(self) -> None:
        """Wait until SIGSTOP has stopped the worker."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the worker is stopped")


def main() -> None:
    point, passage, number, *arguments = sys.argv[1:]
    from tracker_worker import faults
    from tracker_worker.cli.main import main as tracker_worker

    assert point in faults.POINTS
    armed = False
    passages = itertools.count(1)

    def arm(_number: int, _frame: object) -> None:
        nonlocal armed
        armed = True
        print(_ARMED, file=sys.stderr, flush=True)

    def reached(name: str) -> None:
        if armed and name == point and next(passages) == int(passage):
            if number == "0":
                raise RuntimeError(FAILURE)
            if int(number) == HANG:
                threading.Event().wait()
            # The signal goes to this thread: a signal to the process might let the thread run on for a moment.
            signal.pthread_kill(threading.get_ident(), int(number))

    signal.signal(signal.SIGUSR1, arm)
    faults.install(reached)
    sys.argv = ["tracker-worker", *arguments]
    tracker_worker()


if __name__ == "__main__":
    main()
