# SPDX-License-Identifier: Apache-2.0
"""The targets of a run: bounds for the ratio of two figures of the same run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.compare import Key
from benchmarks.job import Figures
from benchmarks.sides import EQUAL, LIMIT, OURS, OURS_POSTGRESQL, STOCK, WATCHED

Read = Callable[[Figures], float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target and the measured ratio. ``ratio`` is None if the run did not measure both figures."""

    figure: str
    wanted: str
    ratio: float | None
    met: bool


def _throughput(figures: Figures) -> float:
    return figures.calls_per_second


def _median_latency(figures: Figures) -> float:
    return figures.p50_ms


def _server_cpu(figures: Figures) -> float:
    return figures.cpu_us["server"]


@dataclass(frozen=True, slots=True)
class _Target:
    """A bound for the figure of ``side``, divided by that of ``other``, with so many calls in flight."""

    figure: str
    read: Read
    queue_type: str
    in_flight: int
    side: str
    other: str
    relation: str
    bound: float

    def __str__(self) -> str:
        return f"{self.figure}, {self.queue_type}, {self.in_flight} in flight: {self.side} / {self.other}"


def _for_both(
    figure: str, read: Read, in_flight: int, side: str, other: str, relation: str, bound: float
) -> list[_Target]:
    return [_Target(figure, read, queue, in_flight, side, other, relation, bound) for queue in ("classic", "quorum")]


_TARGETS = (
    *_for_both("p50", _median_latency, 1, OURS_POSTGRESQL, OURS, "<=", 1.2),
    _Target("p50", _median_latency, "classic", 1, OURS_POSTGRESQL, STOCK, "<=", 1.5),
    _Target("p50", _median_latency, "classic", 1, OURS, STOCK, "<=", 1.1),
    _Target("p50", _median_latency, "quorum", 1, OURS, STOCK, "<=", 1.0),
    *_for_both("throughput", _throughput, 64, OURS_POSTGRESQL, OURS, ">=", 0.95),
    _Target("throughput", _throughput, "classic", 64, OURS, STOCK, ">=", 4.0),
    _Target("throughput", _throughput, "quorum", 64, OURS, STOCK, ">=", 4.5),
    *_for_both("throughput", _throughput, 64, OURS, EQUAL, ">=", 8.0),
    *_for_both("throughput", _throughput, 64, OURS, LIMIT, ">=", 0.55),
    *_for_both("throughput", _throughput, 64, WATCHED, OURS, ">=", 0.95),
    *_for_both("server CPU per call", _server_cpu, 64, OURS, STOCK, "<=", 1 / 3),
)
# Sides that no run has unless it is told to: without them, their targets are not listed.
_OPTIONAL = (WATCHED,)


def held_against(found: Mapping[Key, Figures]) -> list[Outcome]:
    """Compare the sides that the targets name."""
    sides = {side for _, side, _ in found}
    outcomes = []
    for target in _TARGETS:
        if target.side in _OPTIONAL and target.side not in sides:
            continue
        ours, theirs = (found.get((target.queue_type, side, target.in_flight)) for side in (target.side, target.other))
        ratio = None if ours is None or theirs is None else target.read(ours) / target.read(theirs)
        outcomes.append(outcome(str(target), target.relation, target.bound, ratio))
    return outcomes


def outcome(figure: str, relation: str, bound: float, ratio: float | None) -> Outcome:
    """Judge ``ratio`` by ``bound``; ``relation`` is >= or <=."""
    holds = {">=": operator.ge, "<=": operator.le}[relation]
    return Outcome(figure, f"{relation} {bound:.3g}", ratio, ratio is not None and bool(holds(ratio, bound)))
