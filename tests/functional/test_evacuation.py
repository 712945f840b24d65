# SPDX-License-Identifier: Apache-2.0
"""An evacuation whose source comes back: a day later to the worker that serves it, by the clock of the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from tests.support import stock
from tests.support.bill import Bill, micros
from tests.support.builders import instance_dict, uuid
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, WorkerProcess
from tests.wire.stock import configuration
from tracker_worker.client.api import TrackerAPI
from tracker_worker.conf import register_opts
from tracker_worker.service.worker import Worker

DAY = timedelta(days=1)
LEFT, REACHED = "h1", "h2"
CONTEXT = {"project_id": "p1", "user_id": "u1"}
MakeWorker = Callable[..., Worker]


class LaterClock:
    """The time of day in microseconds, ``ahead`` of the machine's."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> int:
        return time.time_ns() // 1000 + self.ahead // timedelta(microseconds=1)


@pytest.fixture
def clock() -> LaterClock:
    return LaterClock()


@pytest.fixture
def make_worker(clock: LaterClock, broker_vhost: str, tmp_path: Path) -> Iterator[MakeWorker]:
    """Starts a worker of one host, in this process, on a database of this name."""
    with ExitStack() as stack:

        def make(host: str, database: str) -> Worker:
            directory = tmp_path / host
            directory.mkdir(exist_ok=True)
            described = WorkerProcess(
                directory,
                transport_url=broker_vhost,
                hosts={host: {"n1": NODE}},
                options={"database": {"connection": f"sqlite:///{tmp_path / database}.sqlite"}},
            )
            conf = cfg.ConfigOpts()
            register_opts(conf)
            conf([f"--config-file={described.configuration}"], project="tracker-worker", default_config_dirs=[])
            worker = Worker(conf, clock=clock)
            stack.callback(worker.stop)
            worker.start()
            wait_until(worker.ready, f"the worker of {host} consumes")
            return worker

        yield make


@pytest.fixture
def api(broker_vhost: str) -> TrackerAPI:
    return TrackerAPI(configuration(broker_vhost))


def claimed(api: TrackerAPI, left: Worker) -> dict[str, Any]:
    """Claim an instance on the first host, whose worker then ends. Returns the instance."""
    instance = instance_dict(1, node="n1", vm_state="active", task_state=None)
    with api.resource_claim(CONTEXT, LEFT, instance):
        pass
    left.stop()
    return instance


def charged(api: TrackerAPI, host: str) -> list[str]:
    return [entry["instance_uuid"] for entry in api.list_allocations(CONTEXT, host)["allocations"]]


def wait_released(api: TrackerAPI) -> None:
    wait_until(lambda: charged(api, LEFT) == [], "the instance is released where it was left")
    assert charged(api, REACHED) == [uuid(1)]


def check_told(listener: stock.Listener, api: TrackerAPI, move: Any) -> None:
    """The source's release came a day later, and is dated at the hand-over; the bill has no gap and nothing twice."""
    bill = Bill()
    for host in (LEFT, REACHED):
        for one in listener.wait_for(host, "n1", api.get_node(CONTEXT, host)["sequence"]):
            bill.add(one.event_type, one.payload)
    (told,) = [one.payload for one in listener.heard(LEFT) if one.event_type == "tracker.move.finished"]
    assert (told["role"], told["effective_at"]) == ("", move["finished_at"])
    assert datetime.fromisoformat(told["occurred_at"]) - datetime.fromisoformat(told["effective_at"]) >= DAY
    first, second = bill.intervals()[uuid(1)]
    assert (first.place, second.place) == ((LEFT, "n1"), (REACHED, "n1"))
    assert (first.end, second.begin, second.end) == (second.begin, micros(move["finished_at"]), None)


def test_in_one_ledger_the_worker_that_comes_back_releases_by_itself(
    make_worker: MakeWorker, api: TrackerAPI, clock: LaterClock, listener: stock.Listener
) -> None:
    left = make_worker(LEFT, "one")
    make_worker(REACHED, "one")
    instance = claimed(api, left)
    # The scheduler tells the source nothing, not even by a cast.
    beginning = {"id": "m1", "kind": "evacuation", "from_host": LEFT, "from_node": "n1"}
    api.begin_move_claim(CONTEXT, REACHED, instance, beginning)
    move = api.finish_move(CONTEXT, REACHED, "m1")
    clock.ahead += DAY
    make_worker(LEFT, "one")
    wait_released(api)
    check_told(listener, api, move)


def test_in_another_ledger_the_cast_that_waits_in_its_queue_releases(
    make_worker: MakeWorker, api: TrackerAPI, clock: LaterClock, listener: stock.Listener
) -> None:
    left = make_worker(LEFT, "one")
    make_worker(REACHED, "two")
    instance = claimed(api, left)
    with api.move_claim(CONTEXT, instance, LEFT, REACHED, "evacuation", from_node="n1") as move:
        pass
    clock.ahead += DAY
    make_worker(LEFT, "one")
    wait_released(api)
    check_told(listener, api, move)
