# SPDX-License-Identifier: Apache-2.0
"""What a report says of a worker, in every phase and while a part hangs."""

from __future__ import annotations

import threading

import pytest

from tests.support.builders import HOST, instance_dict, node_name
from tests.support.deadline import SECONDS, wait_until
from tests.support.worker import WorkerHarness
from tests.unit.service.conftest import MakeWorker
from tracker_worker.counters import Counters
from tracker_worker.service.report import MOST_DECISIONS, MOST_HOSTS, queue_lines, thread_lines
from tracker_worker.service.worker import Worker

TITLES = ["worker", "hosts", "queues", "pools", "counters", "decisions"]


def report(worker: Worker) -> dict[str, list[str]]:
    return {section.title: list(section.lines()) for section in worker.window.sections()}


def test_a_worker_that_was_not_started_has_every_section(worker_harness: WorkerHarness) -> None:
    found = report(worker_harness.worker)
    assert list(found) == TITLES
    assert "ledger_id: not read yet" in found["worker"]
    assert "ready: no" in found["worker"]
    assert found["hosts"] == [f"{HOST}: pending, not in memory"]
    assert found["decisions"] == []


def test_a_running_worker_shows_its_ledgers_and_queues(worker_harness: WorkerHarness) -> None:
    worker_harness.worker.start()
    worker_harness.caller.call("begin_resource_claim", instance=instance_dict(1, node=node_name(1))).reply()
    found = report(worker_harness.worker)
    assert f"ledger_id: {worker_harness.store.histories()[-1].ledger_id}" in found["worker"]
    assert "ready: yes" in found["worker"]
    (line,) = found["hosts"]
    assert line.startswith(f"{HOST}: ")
    assert line.endswith(", does its chores, 1 node, 1 allocation")
    assert "undecided: 0 messages, 0 bytes" in found["queues"]
    assert "unadmitted: 0 messages, 0 bytes" in found["queues"]
    assert found["pools"][1].startswith("inventory questions: 0 queued, ")


def test_what_waits_while_the_store_hangs_is_counted(worker_harness: WorkerHarness) -> None:
    worker_harness.worker.start()
    hanging, entered = threading.Event(), threading.Event()
    commit = worker_harness.store.commit

    def hang(*arguments: object) -> object:
        entered.set()
        assert hanging.wait(SECONDS)
        return commit(*arguments)

    worker_harness.store.commit = hang
    try:
        calls = [
            worker_harness.caller.call("begin_resource_claim", instance=instance_dict(number)) for number in (1, 2, 3)
        ]
        assert entered.wait(SECONDS)
        wait_until(lambda: worker_harness.worker.window.queues()["undecided"][0] == 3, "all three wait")
        assert worker_harness.worker.window.queues()["undecided"][1] > 3 * 100
        assert any(line.startswith("tracker-engine: ") for line in thread_lines())
    finally:
        hanging.set()
    assert all(call.reply() for call in calls)
    wait_until(lambda: worker_harness.worker.window.queues()["undecided"] == (0, 0), "nothing waits")


def test_only_the_last_decisions_are_shown(worker_harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    class Said:
        def __init__(self, number: int) -> None:
            self.number = number

        def line(self) -> str:
            return f"decision {self.number}"

    monkeypatch.setattr(worker_harness.worker._engine, "recent", lambda: [Said(number) for number in range(1000)])
    decisions = report(worker_harness.worker)["decisions"]
    assert (len(decisions), decisions[-1]) == (MOST_DECISIONS, "decision 999")


def test_of_many_hosts_the_first_are_shown(make_worker: MakeWorker, configuration: object) -> None:
    names = ", ".join(f"h{number}" for number in range(250))
    configuration.write_text(f"[tracker]\nhosts = {names}\ninventory_driver = fake\n")
    lines = report(make_worker().worker)["hosts"]
    assert len(lines) == MOST_HOSTS + 1
    assert lines[-1] == "... and 150 more hosts"


def test_counters_that_have_counted_are_shown(worker_harness: WorkerHarness) -> None:
    worker_harness.worker.counters.add("conflicts", 3)
    assert report(worker_harness.worker)["counters"] == ["conflicts: 3"]
    assert Counters().snapshot()["conflicts"] == 0


def test_every_thread_has_its_place() -> None:
    lines = dict(line.split(": ", 1) for line in thread_lines())
    assert lines["MainThread"].startswith("tracker_worker/")


def test_a_queue_is_messages_and_bytes() -> None:
    assert list(queue_lines({"a": (1, 1), "b": (2, 3)})) == ["a: 1 message, 1 byte", "b: 2 messages, 3 bytes"]
