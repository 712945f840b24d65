# SPDX-License-Identifier: Apache-2.0
"""The longest times without an answer, and the table at the end of a run."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.invariants.record import RESULT, Request

LONGEST_SILENCE_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault. It lasts from its cause until every host has answered again, in seconds of the monotonic clock.

    ``over_at``: the end of the cause, for example the start of a stopped broker.
    """

    name: str
    began_at: float
    over_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class Run:
    """The run on one store."""

    store: str
    requests: Sequence[Request]
    notifications: int
    injected: Sequence[Injected]
    violations: Sequence[str]


def silences(answers: Sequence[float], began_at: float, ended_at: float) -> Iterable[tuple[float, float]]:
    """The times between two successive ``answers`` that overlap this span. ``answers`` is sorted."""
    first = max(0, bisect.bisect_right(answers, began_at) - 1)
    last = bisect.bisect_left(answers, ended_at) + 1
    return itertools.pairwise(answers[first:last])


def unavailability(requests: Iterable[Request], injected: Iterable[Injected]) -> dict[str, float]:
    """Fault -> the longest silence of any host."""
    answers = _answers(requests)
    longest: dict[str, float] = {}
    for fault in injected:
        for times in answers.values():
            for before, after in silences(times, fault.began_at, fault.ended_at):
                longest[fault.name] = max(after - before, longest.get(fault.name, 0.0))
    return longest


def overlong(requests: Iterable[Request], injected: Iterable[Injected]) -> Iterable[str]:
    """One sentence for each silence of a host that lasts too long; the time in which the cause itself lasts does not count."""
    answers = _answers(requests)
    for fault in injected:
        for host, times in sorted(answers.items()):
            for before, after in silences(times, fault.began_at, fault.ended_at):
                during = max(0.0, min(after, fault.over_at) - max(before, fault.began_at))
                if after - before - during > LONGEST_SILENCE_SECONDS:
                    yield (
                        f"{host} answered no call for {after - before:.1f} s at the fault {fault.name!r}, which itself "
                        f"lasted for {during:.1f} s of them."
                    )


def _answers(requests: Iterable[Request]) -> dict[str, list[float]]:
    """Host -> the times of its answers, sorted."""
    answers: dict[str, list[float]] = {}
    for request in requests:
        if request.call and request.host is not None and request.outcome == RESULT:
            answers.setdefault(request.host, []).append(request.ended_at)
    for times in answers.values():
        times.sort()
    return answers


def lines(runs: Sequence[Run]) -> Iterable[str]:
    """The lines of the table: one for each kind of fault, then one for each store with the counts."""
    yield f"{'fault':<40}" + "".join(f"{run.store:>12} {'longest':>8}" for run in runs)
    yield f"{'':<40}" + "".join(f"{'injected':>12} {'silence':>8}" for _ in runs)
    silences = [unavailability(run.requests, run.injected) for run in runs]
    for name in sorted({fault.name for run in runs for fault in run.injected}):
        row = f"{name:<40}"
        for run, silence in zip(runs, silences, strict=True):
            times = sum(fault.name == name for fault in run.injected)
            row += f"{times:>12}" + (f" {silence.get(name, 0):>6.1f} s" if times else f" {'-':>8}")
        yield row
    for run in runs:
        calls = [request for request in run.requests if request.call]
        answered = sum(request.outcome != "unknown" for request in calls)
        yield (
            f"{run.store}: {len(run.requests)} messages sent, {len(calls)} of them calls ({len(calls) - answered} without "
            f"an answer), {run.notifications} notifications received, {len(run.injected)} faults injected, "
            f"{len(run.violations)} violations"
        )
