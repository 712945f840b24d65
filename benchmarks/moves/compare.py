# SPDX-License-Identifier: Apache-2.0
"""Moves on each store, and claims on the same worker, in interleaved rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks import generator, job
from benchmarks.generator import median_of
from benchmarks.moves import load
from benchmarks.moves.load import DESTINATION, SOURCE, MoveFigures, MoveJob
from benchmarks.sides import OURS, OURS_POSTGRESQL, running
from benchmarks.stage import Stage
from benchmarks.workload import CAPACITY, NODE

SIDES = (OURS, OURS_POSTGRESQL)
_HOSTS = {SOURCE: {NODE: CAPACITY}, DESTINATION: {NODE: CAPACITY}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``moves`` is the number of moves of a measurement, of four calls each; just before, there are as many claims as calls."""

    moves: int = 1000
    rounds: int = 3
    in_flight: Sequence[int] = (1, 64)
    sides: Sequence[str] = SIDES

    @property
    def measurements(self) -> int:
        return self.rounds * len(self.sides) * len(self.in_flight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """``claims_per_second`` is for scale: claims with as many in flight, on both hosts in turn."""

    moves: MoveFigures
    claims_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement of one round."""

    round: int
    side: str
    in_flight: int
    figures: Figures


def compare(plan: Plan, stage: Stage, tell: Callable[[str], None]) -> Iterator[Sample]:
    """Yield one sample after the other and pass a description of each step to ``tell``."""
    for number in range(plan.rounds):
        for side in plan.sides if number % 2 == 0 else reversed(plan.sides):
            tell(f"round {number + 1}: {side}")
            with running(stage, side, "classic", hosts=_HOSTS) as server:
                for in_flight in plan.in_flight:
                    seed = f"{number} {in_flight}"
                    claims = job.run(
                        server.url,
                        hosts=list(_HOSTS),
                        in_flight=in_flight,
                        calls=4 * plan.moves,
                        warmup=plan.moves // 10,
                        seed=seed,
                        watched=server.watched,
                        notifications=server.notifications,
                    )
                    moving = MoveJob(
                        url=server.url,
                        in_flight=in_flight,
                        moves=plan.moves,
                        warmup=plan.moves // 10,
                        seed=f"moves {seed}",
                        watched=server.watched,
                    )
                    moves = generator.run(load.MODULE, moving, MoveFigures)
                    figures = Figures(moves=moves, claims_per_second=claims.calls_per_second)
                    yield Sample(round=number, side=side, in_flight=in_flight, figures=figures)


def summary(samples: Sequence[Sample]) -> Mapping[tuple[str, int], Figures]:
    """The medians over the rounds by side and moves in flight, in order of appearance."""
    rounds: defaultdict[tuple[str, int], list[Figures]] = defaultdict(list)
    for sample in samples:
        rounds[sample.side, sample.in_flight].append(sample.figures)
    return {
        key: Figures(
            moves=median_of([one.moves for one in measured]),
            claims_per_second=median(one.claims_per_second for one in measured),
        )
        for key, measured in rounds.items()
    }
