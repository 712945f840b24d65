# SPDX-License-Identifier: Apache-2.0
"""One worker, two that serve different hosts, and two that serve the same hosts, on one database, in interleaved rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import job
from benchmarks.generator import median_of
from benchmarks.job import NOTIFICATIONS, Figures
from benchmarks.sides import QUEUE_TYPES, working
from benchmarks.stage import Stage
from benchmarks.workload import CAPACITY, NODE
from tests.support.worker_process import WorkerProcess

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
STORES = (SQLITE, POSTGRESQL)
ONE, APART, STANDBY = (
    "one worker",
    "two workers, half of the hosts each",
    "two workers, active and standby of all hosts",
)
ARRANGEMENTS = (ONE, APART, STANDBY)
Key = tuple[str, str]
"""Store and arrangement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``hosts`` is the number of hosts, over which the claims are distributed in turn."""

    calls: int = 5000
    rounds: int = 3
    hosts: int = 8
    in_flight: int = 64
    stores: Sequence[str] = STORES

    @property
    def measurements(self) -> int:
        return self.rounds * len(self.stores) * len(ARRANGEMENTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement of one round. ``figures.cpu_us`` has the first worker as ``server``, the other one as ``second``."""

    round: int
    store: str
    arrangement: str
    figures: Figures


def compare(plan: Plan, stage: Stage, tell: Callable[[str], None]) -> Iterator[Sample]:
    """Yield one sample after the other and pass a description of each step to ``tell``."""
    hosts = [f"host-{number}" for number in range(1, plan.hosts + 1)]
    for number in range(plan.rounds):
        measurements = list(product(plan.stores, ARRANGEMENTS))
        for store, arrangement in measurements if number % 2 == 0 else reversed(measurements):
            tell(f"round {number + 1}: {store}, {arrangement}")
            with _arranged(stage, store, arrangement, hosts) as (url, watched):
                figures = job.run(
                    url,
                    hosts=hosts,
                    in_flight=plan.in_flight,
                    calls=plan.calls,
                    warmup=plan.calls // 10,
                    seed=str(number),
                    watched=watched,
                    notifications=NOTIFICATIONS,
                )
            yield Sample(round=number, store=store, arrangement=arrangement, figures=figures)


@contextmanager
def _arranged(
    stage: Stage, store: str, arrangement: str, hosts: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Run the workers; yield their transport URL, and the process ids by name in the figures. The first one that starts is the
    active worker of the hosts that both serve.
    """
    with ExitStack() as stack:
        url = stack.enter_context(stage.virtual_host())
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="tracker-benchmark-")))
        watched = {"broker": stage.broker_pid}
        if store == POSTGRESQL:
            database = stack.enter_context(stage.database())
            watched["database"] = stage.database_pid
        else:
            database = f"sqlite:///{directory / 'tracker.sqlite'}"
        for name, served in _shares(arrangement, hosts).items():
            (directory / name).mkdir()
            worker = WorkerProcess(
                directory / name,
                transport_url=url,
                hosts={host: {NODE: CAPACITY} for host in served},
                options=QUEUE_TYPES["classic"],
            )
            worker.configure({"database": {"connection": database}})
            watched[name] = stack.enter_context(working(worker))
        yield url, watched


def _shares(arrangement: str, hosts: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The hosts that each worker serves, by its name in the figures."""
    if arrangement == ONE:
        return {"server": hosts}
    if arrangement == STANDBY:
        return {"server": hosts, "second": hosts}
    half = len(hosts) // 2
    return {"server": hosts[:half], "second": hosts[half:]}


def summary(samples: Sequence[Sample]) -> Mapping[Key, Figures]:
    """The medians over the rounds, in order of appearance."""
    rounds: defaultdict[Key, list[Figures]] = defaultdict(list)
    for sample in samples:
        rounds[sample.store, sample.arrangement].append(sample.figures)
    return {key: median_of(measured) for key, measured in rounds.items()}
