# SPDX-License-Identifier: Apache-2.0
"""The targets of a run: bounds for the ratio of two figures of the same run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.compare import Key
from benchmarks.job import Figures
from benchmarks.sides import EQUAL, LIMIT, OURS, STOCK

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


# Figure, its reader, queue type, calls in flight, the other side, relation and bound.
_TARGETS: tuple[tuple[str, Read, str, int, str, str, float], ...] = (
    ("throughput", _throughput, "classic", 64, STOCK, ">=", 4.0),
    ("throughput", _throughput, "quorum", 64, STOCK, ">=", 2.5),
    ("throughput", _throughput, "quorum", 256, STOCK, ">=", 3.5),
    ("throughput", _throughput, "classic", 64, EQUAL, ">=", 8.0),
    ("throughput", _throughput, "quorum", 64, EQUAL, ">=", 8.0),
    ("p50", _median_latency, "classic", 1, STOCK, "<=", 1.0),
    ("server CPU per call", _server_cpu, "classic", 64, STOCK, "<=", 1 / 3),
    ("server CPU per call", _server_cpu, "quorum", 64, STOCK, "<=", 1 / 3),
    ("throughput", _throughput, "classic", 64, LIMIT, ">=", 0.6),
    ("throughput", _throughput, "quorum", 64, LIMIT, ">=", 0.6),
)


def held_against(found: Mapping[Key, Figures]) -> list[Outcome]:
    """Compare the worker on SQLite with the sides named by the targets."""
    outcomes = []
    for name, read, queue_type, in_flight, other, relation, bound in _TARGETS:
        ours, theirs = found.get((queue_type, OURS, in_flight)), found.get((queue_type, other, in_flight))
        ratio = None if ours is None or theirs is None else read(ours) / read(theirs)
        outcomes.append(outcome(f"{name}, {queue_type}, {in_flight} in flight: ours / {other}", relation, bound, ratio))
    return outcomes


def outcome(figure: str, relation: str, bound: float, ratio: float | None) -> Outcome:
    """Judge ``ratio`` by ``bound``; ``relation`` is >= or <=."""
    holds = {">=": operator.ge, "<=": operator.le}[relation]
    return Outcome(figure, f"{relation} {bound:.3g}", ratio, ratio is not None and bool(holds(ratio, bound)))
