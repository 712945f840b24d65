# SPDX-License-Identifier: Apache-2.0
"""A process of its own that asks one host again and again, while the test's process is busy with something else.

As a program: ``python -m tests.support.pinger URL HOST``. It asks until its standard input ends, then writes its answers.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.callers import connected

_ROOT = Path(__file__).parents[2]
_METHODS = ("oslo_rpc_server_ping", "get_node")
_PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 10.0
"""A question that is not answered for so long is given up, and counts as answered after so long."""
_START = "asking"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, answered after ``seconds``. ``failure``: the class of the error, or "Timeout"."""

    method: str
    seconds: float
    failure: str | None


class Pinger:
    """Starts the process and ends it."""

    def __init__(self, url: str, host: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.pinger", url, host],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        # The first question is asked when the process has started.
        assert self._process.stdout.readline().strip() == _START

    def stop(self) -> list[Asked]:
        """End the process, and return all questions, including those that nobody has answered."""
        out, _ = self._process.communicate(timeout=PATIENCE_SECONDS + 30)
        return [Asked(**json.loads(one)) for one in out.splitlines()]

    def close(self) -> None:
        """Kill the process if it runs."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


def slowest(asked: list[Asked]) -> Asked:
    """The question that waited longest for its answer."""
    return max(asked, key=lambda one: one.seconds)


def main(url: str, host: str) -> None:
    stopping = threading.Event()

    def wait_end() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=wait_end, daemon=True).start()
    asked: list[Asked] = []
    with connected(url) as callers:
        print(_START, flush=True)
        for method in itertools.cycle(_METHODS):
            began_at = time.monotonic()
            called = callers.answer(host, method, PATIENCE_SECONDS)
            if called.seconds is None:
                asked.append(Asked(method, time.monotonic() - began_at, "Timeout"))
            else:
                asked.append(Asked(method, called.seconds, called.failure))
            if stopping.wait(_PAUSE_SECONDS):
                break
    for one in asked:
        print(json.dumps(asdict(one)))


if __name__ == "__main__":
    main(*sys.argv[1:])
