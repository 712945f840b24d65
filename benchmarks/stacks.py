# SPDX-License-Identifier: Apache-2.0
"""Sums of py-spy's raw stacks, by thread and function."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_THREAD = re.compile(r"thread \(\w+\): ?(.*)")
_FRAME = re.compile(r"(.*) \((.*?)(?::\d+)?\)$")


@dataclass(slots=True)
class Thread:
    """The samples of one thread. ``own`` counts samples with a function on top, ``total`` samples with it anywhere in the
    stack.
    """

    samples: int = 0
    own: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)


def read(lines: Iterable[str]) -> Mapping[str, Thread]:
    """Return the counts by thread name, the busiest thread first. A line is ``thread;outermost;...;innermost count``."""
    threads: defaultdict[str, Thread] = defaultdict(Thread)
    for line in lines:
        stack, _, count = line.rstrip("\n").rpartition(" ")
        name, *frames = stack.split(";")
        named = _THREAD.fullmatch(name)
        thread = threads[(named[1] or "main") if named else name]
        functions = [_function(frame) for frame in frames]
        thread.samples += int(count)
        for function in set(functions):
            thread.total[function] += int(count)
        if functions:
            thread.own[functions[-1]] += int(count)
    return dict(sorted(threads.items(), key=lambda item: -item[1].samples))


def _function(frame: str) -> str:
    found = _FRAME.fullmatch(frame)
    if found is None:
        return frame
    return f"{found[1]} ({'/'.join(found[2].split('/')[-2:])})"
