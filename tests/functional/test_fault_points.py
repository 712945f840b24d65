# SPDX-License-Identifier: Apache-2.0
"""The crash table: a kill of the worker under load at any fault point loses no request and repeats no effect."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.invariants.check import proved
from tests.invariants.collect import Log, RecordingClient, evidence, wait_relayed
from tests.invariants.listening import listener
from tests.invariants.record import RESULT, UNKNOWN
from tests.support import load, stock
from tests.support.faulty import FaultyWorker
from tests.support.migrated import migrated
from tests.support.traffic import Scheduler
from tracker_worker import faults

_SCHEDULERS = 6
_STEPS = 10
_PLACES = [(host, node) for host, nodes in load.HOSTS.items() for node in nodes]
_TIGHT = [place for place in _PLACES if place[1] == load.TIGHT]
# Each scheduler waits for its answers, so at least this many batches pass. A commit of cursors alone happens only without load.
_PASSAGES = dict.fromkeys(faults.POINTS, 4) | {"before_cursor": 1}


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tracker.sqlite'}"
    return migrated(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def faulty_worker(tmp_path: Path, broker_vhost: str, database_url: str) -> Iterator[FaultyWorker]:
    worker = FaultyWorker(
        tmp_path,
        transport_url=broker_vhost,
        hosts=load.HOSTS,
        options={"database": {"connection": database_url}},
    )
    yield worker
    worker.close()


@pytest.mark.parametrize("point", faults.POINTS)
def test_a_worker_killed_at_a_point_loses_nothing_and_does_nothing_twice(
    faulty_worker: FaultyWorker, broker_vhost: str, database_url: str, point: str
) -> None:
    _kill_at(point, faulty_worker, broker_vhost, database_url)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("point", ["before_commit", "after_reply"])
def test_a_worker_killed_at_a_point_loses_nothing_on_classic_queues_either(
    faulty_worker: FaultyWorker, broker_vhost: str, database_url: str, point: str
) -> None:
    faulty_worker.configure({"bus": {"queue_type": "classic"}})

    _kill_at(point, faulty_worker, broker_vhost, database_url)


def _kill_at(point: str, worker: FaultyWorker, transport_url: str, database_url: str) -> None:
    log = Log()
    with (
        listener(transport_url) as listening,
        stock.client(transport_url) as client,
        ThreadPoolExecutor(_SCHEDULERS) as pool,
    ):
        schedulers = [
            Scheduler(RecordingClient(client, log), name=f"s{n}", seed=n, places=_PLACES, tight=_TIGHT)
            for n in range(_SCHEDULERS)
        ]
        worker.ail(point, _PASSAGES[point])
        worker.start()
        worker.wait_ready()
        wait_relayed(database_url, listening)
        worker.arm()

        first = [pool.submit(_steps, scheduler) for scheduler in schedulers]
        assert worker.wait() == -signal.SIGKILL
        worker.heal()
        worker.start()
        worker.wait_ready()
        for steps in first:
            steps.result(60)
        for steps in [pool.submit(_steps, scheduler) for scheduler in schedulers]:
            steps.result(60)

        # These calls are after all casts in the same queues.
        for host in load.HOSTS:
            assert RecordingClient(client, log).call(host, "list_nodes").outcome == RESULT
        wait_relayed(database_url, listening)
        assert worker.terminate() == 0
        assert [request for request in log.requests if request.outcome == UNKNOWN] == []
        proved(
            evidence(requests=log.requests, listening=listening, transport_url=transport_url, database_url=database_url)
        )


def _steps(scheduler: Scheduler) -> None:
    for _ in range(_STEPS):
        scheduler.step()
