# SPDX-License-Identifier: Apache-2.0
"""A killed test run leaves no process and no directory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil

_ROOT = Path(__file__).parents[2]
_RUN = """
import subprocess, sys
from pathlib import Path
from tests.servers.guard import Guard

guard = Guard()
guard.open()
guard.remove(Path(sys.argv[1]))
server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
print(server.pid, guard._process.pid, flush=True)
if sys.argv[2] == "close":
    guard.close()
    print(server.wait(), flush=True)
input()
"""


def _run(directory: Path, how: str) -> subprocess.Popen[str]:
    directory.mkdir()
    (directory / "file").touch()
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, str(directory), how],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _pids(run: subprocess.Popen[str]) -> list[psutil.Process]:
    assert run.stdout is not None
    return [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]


def test_the_processes_of_a_killed_run_end_and_its_directory_is_removed(tmp_path: Path) -> None:
    with _run(tmp_path / "server", "kill") as run:
        started = _pids(run)
        run.kill()

    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
    assert not (tmp_path / "server").exists()


def test_closing_the_guard_ends_the_remaining_processes(tmp_path: Path) -> None:
    with _run(tmp_path / "server", "close") as run:
        assert run.stdout is not None
        run.stdout.readline()
        assert int(run.stdout.readline()) == -signal.SIGKILL
        assert not (tmp_path / "server").exists()
        run.kill()
