# SPDX-License-Identifier: Apache-2.0
"""A limit on the memory of a process that runs already."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.memory import limit_memory

MEBIBYTE = 1 << 20
TAKE = """
print("ready", flush=True)
size = int(input())
try:
    taken = bytearray(size)
except MemoryError:
    print("refused")
else:
    print("taken")
"""


@pytest.mark.parametrize(("mebibytes", "outcome"), [(100, "taken"), (400, "refused")])
def test_more_than_the_limit_is_refused(mebibytes: int, outcome: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        limit_memory(process.pid, 256 * MEBIBYTE)
        out, _ = process.communicate(str(mebibytes * MEBIBYTE), timeout=60)

    assert out == f"{outcome}\n"
