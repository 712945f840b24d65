# SPDX-License-Identifier: Apache-2.0
"""How much memory a part of a test needs, measured in a process of its own: python -m tests.support.memory MODULE FUNCTION.

The function returns, by name, the functions to measure; everything that is not to be measured has been made by then.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).parents[2]


class Measured(NamedTuple):
    """What a function returned, the seconds of CPU that it took, and by how many megabytes the process grew at most."""

    result: Any
    seconds: float
    megabytes: float


def limit_memory(pid: int, size: int) -> None:
    """Let a running process have at most ``size`` bytes of memory: more is refused, and Python raises MemoryError."""
    # Unlike RLIMIT_AS, this limit does not count what is only reserved, which is 64 MB for each thread's heap.
    resource.prlimit(pid, resource.RLIMIT_DATA, (size, size))


def measure(make: Callable[[], Mapping[str, Callable[[], Any]]]) -> dict[str, Measured]:
    """Call ``make`` in a child process and measure each function that it returns there. Their results must be JSON."""
    command = [sys.executable, "-m", "tests.support.memory", make.__module__, make.__qualname__]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return {name: Measured(*found) for name, found in json.loads(done.stdout).items()}


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


def _main(module: str, function: str) -> None:
    found = {}
    for name, run in getattr(importlib.import_module(module), function)().items():
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free already must not hide what is needed
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): reset the peak of the resident set
        before, began = _kilobytes("VmRSS"), time.process_time()
        result = run()
        seconds = time.process_time() - began
        found[name] = (result, seconds, (_kilobytes("VmHWM") - before) / 1024)
    print(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
