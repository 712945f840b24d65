# SPDX-License-Identifier: Apache-2.0
"""However many audits are called while a driver hangs, they cost a few megabytes: measured in a process under a limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_MEGABYTES = 20


def run(calls: int, body_bytes: int, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.support.hung_audits", str(calls), str(_MEGABYTES), str(body_bytes), *more],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize(("calls", "body_bytes"), [(100_000, 100), (2000, 60_000)], ids=["many", "large"])
def test_called_audits_take_little_memory_while_the_driver_hangs(calls: int, body_bytes: int) -> None:
    done = run(calls, body_bytes)
    assert (done.returncode, done.stdout) == (0, "1000 calls wait\n"), done.stderr
    assert done.stderr.count("further ones were dropped") == 1


def test_without_the_limit_of_the_calls_that_wait_the_memory_is_not_enough() -> None:
    """The test above can fail."""
    done = run(100_000, 100, "unbounded")
    assert done.returncode != 0
    assert "MemoryError" in done.stderr
