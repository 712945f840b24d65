# SPDX-License-Identifier: Apache-2.0
"""Generators of load as separate processes: a job as JSON on stdin, figures as JSON on stdout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import msgspec

ROOT = Path(__file__).parents[1]

_Job = TypeVar("_Job")
_Figures = TypeVar("_Figures")


def run(module: str, job: Any, answer: type[_Figures]) -> _Figures:
    """Run ``python -m <module>``, which is a ``serve`` below, and return its figures. ``job`` is a dataclass or a mapping.

    Raises RuntimeError: the generator failed; the message holds the end of its stderr.
    """
    done = subprocess.run([sys.executable, "-m", module], cwd=ROOT, input=msgspec.json.encode(job), capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{module} failed:\n{done.stderr.decode()[-4000:]}")
    return msgspec.json.decode(done.stdout, type=answer)


def serve(job: type[_Job], measure: Callable[[_Job], Any]) -> None:
    """Read the job, write the figures that ``measure`` returns, and end the process without the exit handlers of clients."""
    figures = measure(msgspec.json.decode(sys.stdin.buffer.read(), type=job))
    sys.stdout.buffer.write(msgspec.json.encode(figures))
    sys.stdout.flush()
    os._exit(0)


def median_of(measured: Sequence[_Figures]) -> _Figures:
    """The median of each figure of a dataclass of numbers and of mappings to numbers."""
    first = measured[0]
    assert is_dataclass(first)
    assert not isinstance(first, type)
    found: dict[str, Any] = {}
    for field in fields(first):
        values = [getattr(one, field.name) for one in measured]
        if isinstance(values[0], Mapping):
            found[field.name] = {name: median(value[name] for value in values) for name in values[0]}
        else:
            found[field.name] = median(values)
    return replace(first, **found)
