# SPDX-License-Identifier: Apache-2.0
"""The health of a whole worker on a bus in memory, from the start to the end."""

from __future__ import annotations

import itertools
import threading

import pytest

from tests.support.builders import HOST, node_name
from tests.support.deadline import SECONDS, wait_until
from tests.support.health import fetch
from tests.support.worker import WorkerHarness
from tests.unit.service.conftest import MakeWorker
from tracker_worker.errors import ConfigurationError, StoreUnavailable
from tracker_worker.service.health.response import as_text

N1 = node_name(1)


def codes(harness: WorkerHarness) -> list[str]:
    return [problem["code"] for problem in harness.worker.readiness()["problems"]]


def message(harness: WorkerHarness) -> str:
    return harness.worker.readiness()["problems"][0]["message"]


def listening(make_worker: MakeWorker) -> WorkerHarness:
    return make_worker(listen="127.0.0.1:0")


def test_a_worker_says_from_its_making_to_its_end_how_it_is(worker_harness: WorkerHarness) -> None:
    worker = worker_harness.worker
    assert codes(worker_harness) == ["starting"]
    assert worker.readiness()["hosts"][HOST]["role"] == "none"
    assert worker.readiness()["ledger_id"] is None
    hang = worker_harness.driver.hang(N1)
    starting = threading.Thread(target=worker.start)
    starting.start()
    assert hang.entered.wait(SECONDS)
    wait_until(lambda: "it waits for the inventory drivers" in message(worker_harness), "what the start waits for")
    assert worker.health.alive()
    hang.release()
    starting.join(SECONDS)
    worker.probe()

    wait_until(lambda: worker.readiness()["ready"], lambda: f"{worker.readiness()}")
    assert worker.readiness()["hosts"][HOST]["role"] == "active"
    assert worker.readiness()["ledger_id"] == worker_harness.store.histories()[-1].ledger_id
    worker.stop()
    assert codes(worker_harness)[0] == "stopping"
    assert worker.health.alive()


def test_the_listener_is_there_while_the_store_is_opened_and_until_the_stop_is_over(make_worker: MakeWorker) -> None:
    harness = listening(make_worker)
    answers: list[list[str]] = []

    def ask() -> None:
        assert harness.worker.health.address is not None
        answer = fetch(harness.worker.health.address[1], "/readyz")
        answers.append(answer.codes)

    harness.store.script["start"] = [ask]
    harness.store.script["stop"] = [ask]
    harness.worker.start()
    harness.worker.stop()
    assert [found[0] for found in answers] == ["starting", "stopping"]
    assert harness.worker.health.address is not None
    with pytest.raises(OSError):
        fetch(harness.worker.health.address[1], "/livez")


def test_a_start_that_fails_leaves_no_listener(make_worker: MakeWorker) -> None:
    harness = listening(make_worker)
    harness.store.script["start"] = [ConfigurationError("no database")]
    with pytest.raises(ConfigurationError):
        harness.worker.start()
    assert harness.worker.health.address is not None
    with pytest.raises(OSError):
        fetch(harness.worker.health.address[1], "/livez")


def test_a_taken_port_ends_the_start_before_the_store_is_touched(make_worker: MakeWorker) -> None:
    first = listening(make_worker)
    first.worker.start()
    assert first.worker.health.address is not None
    second = make_worker(listen=f"127.0.0.1:{first.worker.health.address[1]}")
    with pytest.raises(
        ConfigurationError, match=r"^\[health\] listen 127.0.0.1:\d+ cannot be used: Address already in use"
    ):
        second.worker.start()
    assert "start" not in second.store.calls


def test_an_address_that_is_none_ends_the_making_of_a_worker(make_worker: MakeWorker) -> None:
    with pytest.raises(ConfigurationError, match=r"^\[health\] listen nowhere is no address"):
        make_worker(listen="nowhere")


def test_further_paths_are_entries_of_the_routes(make_worker: MakeWorker) -> None:
    harness = listening(make_worker)
    harness.worker.health.routes["/more"] = lambda: as_text(200, "more")
    harness.worker.start()
    assert harness.worker.health.address is not None
    assert fetch(harness.worker.health.address[1], "/more").body == b"more\n"


def test_without_an_address_nobody_listens(started_worker: WorkerHarness) -> None:
    assert started_worker.worker.health.address is None
    assert not [each for each in threading.enumerate() if each.name == "tracker-health"]


def test_a_store_that_is_away_is_named_until_it_is_back(started_worker: WorkerHarness) -> None:
    worker = started_worker.worker
    worker.probe()
    wait_until(lambda: worker.readiness()["ready"], lambda: f"{worker.readiness()}")
    started_worker.store.script["take_lease"] = [StoreUnavailable("it says nothing")]
    worker._engine.renew_leases()
    wait_until(lambda: codes(started_worker) == ["store_unavailable"], lambda: f"{worker.readiness()}")
    assert "the database cannot be used (it says nothing)" in message(started_worker)
    worker._engine.renew_leases()
    wait_until(lambda: worker.readiness()["ready"], lambda: f"{worker.readiness()}")


def test_a_worker_is_told_of_the_turns_of_its_engine(make_worker: MakeWorker) -> None:
    told: list[float] = []
    turned = threading.Event()

    def note(now: float) -> float:
        told.append(now)
        turned.set()
        return now + 0.01

    harness = make_worker(turned=note)
    harness.worker.start()
    assert turned.wait(SECONDS)
    wait_until(lambda: len(told) > 3, "further turns")
    assert all(later - earlier >= 0.01 for earlier, later in itertools.pairwise(told))
