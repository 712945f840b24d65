# SPDX-License-Identifier: Apache-2.0
"""How long nobody was answered, and the table at the end."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.invariants.record import RESULT, Request


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault, from its cause to the time at which every host was answered again, in seconds of the monotonic clock."""

    name: str
    began_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class Run:
    """One store's run."""

    store: str
    requests: Sequence[Request]
    notifications: int
    injected: Sequence[Injected]
    violations: Sequence[str]


def longest_silence(answers: Sequence[float], began_at: float, ended_at: float) -> float:
    """The longest time between two successive of ``answers``, which are sorted, that overlaps this span; 0 without two."""
    first = max(0, bisect.bisect_right(answers, began_at) - 1)
    last = bisect.bisect_left(answers, ended_at) + 1
    return max((after - before for before, after in itertools.pairwise(answers[first:last])), default=0.0)


def unavailability(requests: Iterable[Request], injected: Iterable[Injected]) -> dict[str, float]:
    """Fault -> the longest silence of any one host."""
    answers: dict[str, list[float]] = {}
    for request in requests:
        if request.call and request.host is not None and request.outcome == RESULT:
            answers.setdefault(request.host, []).append(request.ended_at)
    for times in answers.values():
        times.sort()
    longest: dict[str, float] = {}
    for fault in injected:
        silence = max(longest_silence(times, fault.began_at, fault.ended_at) for times in answers.values())
        longest[fault.name] = max(silence, longest.get(fault.name, 0.0))
    return longest


def lines(runs: Sequence[Run]) -> Iterable[str]:
    """The table: one row per kind of fault, then what was sent and what was found."""
    yield f"{'fault':<40}" + "".join(f"{run.store:>12} {'longest':>8}" for run in runs)
    yield f"{'':<40}" + "".join(f"{'injected':>12} {'silence':>8}" for _ in runs)
    silences = [unavailability(run.requests, run.injected) for run in runs]
    for name in sorted({fault.name for run in runs for fault in run.injected}):
        row = f"{name:<40}"
        for run, silence in zip(runs, silences, strict=True):
            times = sum(fault.name == name for fault in run.injected)
            row += f"{times:>12}" + (f" {silence[name]:>6.1f} s" if times else f" {'-':>8}")
        yield row
    for run in runs:
        calls = [request for request in run.requests if request.call]
        answered = sum(request.outcome != "unknown" for request in calls)
        yield (
            f"{run.store}: {len(run.requests)} messages sent, {len(calls)} of them calls ({len(calls) - answered} without "
            f"an answer), {run.notifications} notifications received, {len(run.injected)} faults injected, "
            f"{len(run.violations)} violations"
        )
