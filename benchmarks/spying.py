# SPDX-License-Identifier: Apache-2.0
"""py-spy beside a process of this one."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from benchmarks.programs import program

_BEGUN = "Sampling process"


@contextmanager
def sampled(pid: int, raw: Path, *, rate: int, idle: bool) -> Iterator[None]:
    """Sample the stacks of a process ``rate`` times a second, from when the block begins until it ends, and write them to
    ``raw``. ``idle`` counts the threads that wait, too.

    Raises ClickException: py-spy is not installed, or may not trace the process; the message holds what it said.
    """
    command = [program("py-spy"), "record", "--format=raw", "--threads", "--nonblocking", f"--rate={rate}"]
    command += ["--idle"] if idle else []
    command += ["--duration=unlimited", f"--output={raw}", f"--pid={pid}"]
    spy = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert spy.stdout is not None
    try:
        said = spy.stdout.readline()
        while _BEGUN not in said:
            line = spy.stdout.readline()
            if not line:
                raise _failed(said)
            said += line
        yield
        spy.send_signal(signal.SIGINT)  # as from Ctrl-C: py-spy writes its samples
        said, _ = spy.communicate()
        if spy.returncode != 0 or not raw.exists():
            raise _failed(said)
    finally:
        spy.kill()
        spy.wait()
        spy.stdout.close()


def _failed(said: str) -> click.ClickException:
    return click.ClickException(
        "py-spy cannot sample the worker. It needs the right to trace a process of the same user (ptrace, in a container the "
        f"capability SYS_PTRACE). It says:\n{said.strip() or 'nothing'}"
    )
