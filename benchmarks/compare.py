# SPDX-License-Identifier: Apache-2.0
"""Measure all sides in turn on the same broker, in interleaved rounds: a machine that gets slower then gets slower for every
side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import job
from benchmarks.generator import median_of
from benchmarks.job import Figures
from benchmarks.sides import HOST, SIDES, running
from benchmarks.stage import Stage

Key = tuple[str, str, int]
"""Queue type, side, calls in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The measurements of a comparison. ``others`` is the share of calls that finish or update a claim, ``warmup`` the
    number of calls before each measurement, which is never more than ``calls``.
    """

    calls: int = 5000
    rounds: int = 3
    in_flight: Sequence[int] = (1, 16, 64, 256)
    queue_types: Sequence[str] = ("classic", "quorum")
    sides: Sequence[str] = SIDES
    others: float = 0.0
    seed: int = 1
    warmup: int = 500

    @property
    def measurements(self) -> int:
        return self.rounds * len(self.queue_types) * len(self.sides) * len(self.in_flight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement of one round."""

    round: int
    queue_type: str
    side: str
    in_flight: int
    figures: Figures

    @property
    def key(self) -> Key:
        return self.queue_type, self.side, self.in_flight


def compare(plan: Plan, stage: Stage, tell: Callable[[str], None]) -> Iterator[Sample]:
    """Yield one sample after the other and pass a description of each step to ``tell``."""
    for number in range(plan.rounds):
        sides = plan.sides if number % 2 == 0 else tuple(reversed(plan.sides))
        for queue_type in plan.queue_types:
            for side in sides:
                tell(f"round {number + 1}: {side}, {queue_type}: starting")
                with running(stage, side, queue_type) as server:
                    for in_flight in plan.in_flight:
                        tell(f"round {number + 1}: {side}, {queue_type}, {in_flight} in flight")
                        figures = job.run(
                            server.url,
                            hosts=[HOST],
                            in_flight=in_flight,
                            calls=plan.calls,
                            warmup=min(plan.warmup, plan.calls),
                            seed=f"{plan.seed} {number} {in_flight}",
                            watched=server.watched,
                            notifications=server.notifications,
                            others=plan.others,
                        )
                        yield Sample(
                            round=number, queue_type=queue_type, side=side, in_flight=in_flight, figures=figures
                        )


def summary(samples: Sequence[Sample]) -> Mapping[Key, Figures]:
    """The medians over the rounds, in order of appearance."""
    rounds: defaultdict[Key, list[Figures]] = defaultdict(list)
    for sample in samples:
        rounds[sample.key].append(sample.figures)
    return {key: median_of(measured) for key, measured in rounds.items()}
