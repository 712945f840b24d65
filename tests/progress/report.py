# SPDX-License-Identifier: Apache-2.0
"""What a run says: whether a host went without an answer, and how conflicts were resolved."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

# Without a fault, no host is without an answer for longer, and no call on the shared topic takes longer.
LONGEST_GAP_SECONDS = 2.0
# After two lost races a host is decided under lock: the third attempt ends a conflict.
MOST_LOST_RACES = 2
_COUNTERS = "counters: "


class Answer(msgspec.Struct, frozen=True):
    """One call and its end. ``host`` is None on the shared topic, ``ended_at`` is None without an answer; both times are on the
    monotonic clock of the machine, in seconds. ``failure`` is the class of an error."""

    host: str | None
    method: str
    began_at: float
    ended_at: float | None
    failure: str | None


def longest_gaps(answers: Iterable[Answer]) -> dict[str, float]:
    """For each host the longest time between two answers on its topic, on which a call is always under way."""
    began: dict[str, float] = {}
    ended: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if answer.host is None:
            continue
        began[answer.host] = min(answer.began_at, began.get(answer.host, answer.began_at))
        # A call without an answer ends the run, and nothing came from its beginning on unless others were answered.
        if answer.ended_at is not None:
            ended[answer.host].append(answer.ended_at)
    gaps: dict[str, float] = {}
    for host, start in began.items():
        times = sorted([start, *ended[host]])
        gaps[host] = max((later - earlier for earlier, later in pairwise(times)), default=float("inf"))
    return gaps


def violations(answers: Sequence[Answer], hosts: Sequence[str]) -> Iterator[str]:
    """What the answers show to be wrong."""
    gaps = longest_gaps(answers)
    for host in hosts:
        gap = gaps.get(host, float("inf"))
        if gap > LONGEST_GAP_SECONDS:
            yield f"host {host} was without an answer for {gap:.1f} s"
    slow: dict[str, list[float]] = defaultdict(list)
    for one in answers:
        if one.host is None and one.ended_at is not None and one.ended_at - one.began_at > LONGEST_GAP_SECONDS:
            slow[one.method].append(one.ended_at - one.began_at)
    for method, took in slow.items():
        yield f"{len(took)} calls of {method} on the shared topic took up to {max(took):.1f} s"
    for method, count in Counter(one.method for one in answers if one.ended_at is None).items():
        yield f"{count} calls of {method} were not answered"
    for (method, failure), count in Counter((one.method, one.failure) for one in answers if one.failure).items():
        yield f"{count} calls of {method} failed: {failure}"


def counters(log: str) -> dict[str, int]:
    """The counters that a worker's log ends with. Raises ValueError: it has none."""
    lines = [line for line in log.splitlines() if _COUNTERS in line]
    if not lines:
        raise ValueError("the worker's log has no line with its counters")
    found = ast.literal_eval(lines[-1].partition(_COUNTERS)[2].strip())
    return {str(name): int(value) for name, value in found.items()}


def conflict_violations(worker: str, log: str) -> Iterator[str]:
    """What the counters of a worker show to be wrong."""
    try:
        counted = counters(log)
    except (ValueError, SyntaxError, AttributeError) as error:
        yield f"{worker}: {error}"
        return
    for name in ("conflicts", "locked_decisions", "most_lost_races"):
        if name not in counted:
            yield f"{worker}: there is no counter {name}"
    if counted.get("most_lost_races", 0) > MOST_LOST_RACES:
        yield f"{worker}: a conflict was resolved in the attempt number {counted['most_lost_races'] + 1} only"


def lines(answers: Sequence[Answer], seconds: float) -> Iterator[str]:
    """A summary: how many answers, and how long the slowest took."""
    gaps = longest_gaps(answers)
    slowest = max(gaps, key=lambda host: gaps[host], default=None)
    yield f"{len(answers)} answers, {len(answers) / seconds:.0f} per second"
    if slowest is not None:
        yield f"longest time without an answer of a host: {gaps[slowest]:.2f} s ({slowest})"
    by_method: dict[tuple[bool, str], list[float]] = defaultdict(list)
    for one in answers:
        if one.ended_at is not None:
            by_method[one.host is None, one.method].append(one.ended_at - one.began_at)
    for (shared, method), took in sorted(by_method.items()):
        took.sort()
        where = "shared topic" if shared else "own topic"
        yield (
            f"{method} ({where}): {len(took)} answers; median {took[len(took) // 2] * 1000:.0f} ms, "
            f"p99 {took[len(took) * 99 // 100] * 1000:.0f} ms, most {took[-1] * 1000:.0f} ms"
        )
