# SPDX-License-Identifier: Apache-2.0
"""The worker as a whole, on a bus in memory: the order of its start and stop, and the errors that end a start."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import HOST, TOTAL, driver_resource_dict, instance_dict, node_name, uuid
from tests.support.caller import Refused
from tests.support.deadline import SECONDS, wait_until
from tests.support.startstop import stress
from tests.support.worker import WorkerHarness
from tests.unit.service.conftest import MakeWorker
from tracker_worker.errors import ConfigurationError, StoreUnavailable
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.service import worker as module
from tracker_worker.store.base import AnotherHistory

N1, N2 = node_name(1), node_name(2)


class TestStart:
    @pytest.mark.behaviour("start-order")
    def test_no_request_is_received_before_the_first_inventory_is_committed(
        self, worker_harness: WorkerHarness
    ) -> None:
        claim = worker_harness.caller.call("begin_resource_claim", instance=instance_dict(1))
        hang = worker_harness.driver.hang(N1)
        starting = threading.Thread(target=worker_harness.worker.start)
        starting.start()
        assert hang.entered.wait(SECONDS)
        assert not worker_harness.bus.started.is_set()
        assert not worker_harness.worker.ready()
        hang.release()
        starting.join(SECONDS)
        assert claim.reply()["generation"] == 2
        events = [event for commit in worker_harness.store.commits for event in commit.events]
        assert events == ["tracker.node.updated", "tracker.claim.begun"]
        assert in_order(worker_harness.store.calls, "start", "register_host", "create_node", "commit", "bus.start")
        assert worker_harness.worker.ready()

    def test_the_first_inventory_covers_every_host_and_node(self, make_worker: MakeWorker, configuration: Path) -> None:
        configuration.write_text("[tracker]\nhosts = host-1, host-2, host-1\ninventory_driver = fake\n")
        worker_harness = make_worker()
        worker_harness.worker.start()
        assert worker_harness.store.host_names() == ["host-1", "host-2"]
        views = worker_harness.caller.call("list_nodes", source="").reply()
        assert [(view["host"], view["node"], view["vcpus"]) for view in views] == [
            ("host-1", N1, TOTAL["VCPU"]),
            ("host-2", N1, TOTAL["VCPU"]),
        ]

    @pytest.mark.parametrize(
        ("wrong", "states"),
        [
            ({"listing_error": OSError("no hypervisor")}, {}),
            ({"nodes": {N1: OSError("no hypervisor")}}, {N1: "unknown"}),
            ({"nodes": {N1: {"vcpus": 1}}}, {N1: "unknown"}),
            (
                {"nodes": {N1: driver_resource_dict(), N2: driver_resource_dict(vcpus=-1), "\x1b": None}},
                {N1: "open", N2: "unknown"},
            ),
        ],
    )
    def test_a_start_goes_on_with_what_has_answered(
        self, worker_harness: WorkerHarness, wrong: dict[str, Any], states: dict[str, str]
    ) -> None:
        for name, value in wrong.items():
            setattr(worker_harness.driver, name, value)
        worker_harness.worker.start()
        views = worker_harness.caller.call("list_nodes").reply()
        assert {view["node"]: view["state"] for view in views} == states
        assert all(view["state_reason"] for view in views if view["state"] == "unknown")

    @pytest.mark.parametrize("fails", [OSError("no hypervisor"), None])
    def test_after_a_start_a_node_that_fails_has_its_last_inventory(
        self, make_worker: MakeWorker, started_worker: WorkerHarness, fails: Exception | None
    ) -> None:
        started_worker.worker.stop()
        again = make_worker()
        again.store.inner = started_worker.store.inner
        again.driver.nodes[N1] = fails
        again.worker.start()
        view = again.caller.call("get_node").reply()
        assert (view["state"], view["vcpus"]) == ("stale", TOTAL["VCPU"])
        node = again.caller.call("update_usage", instance={"uuid": uuid(1), "vm_state": "active"}).reply()
        assert node == {"tracked": False, "changed": False}

    def test_one_host_whose_driver_fails_keeps_no_other_host_from_being_served(
        self, make_worker: MakeWorker, configuration: Path
    ) -> None:
        configuration.write_text("[tracker]\nhosts = host-1, host-2\ninventory_driver = fake\n")
        worker_harness = make_worker()
        worker_harness.drivers["host-2"].listing_error = OSError("no hypervisor")
        worker_harness.worker.start()
        claim = worker_harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        assert claim["instance_uuid"] == uuid(1)
        assert worker_harness.caller.call("list_nodes", source="host-2").reply() == []

    def test_a_start_does_not_wait_for_a_driver_that_hangs(
        self, worker_harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "_FIRST_AUDIT_SECONDS", 0.01)
        worker_harness.driver.nodes[N2] = driver_resource_dict()
        hang = worker_harness.driver.hang(N1)
        worker_harness.worker.start()
        assert "the inventory drivers of 1 hosts have not answered within 0.01 s (host-1)" in caplog.text
        call = worker_harness.caller.call
        wait_until(lambda: len(call("list_nodes").reply()) == 2, "both nodes listed")
        refused = call("begin_resource_claim", instance=instance_dict(1, node=N1)).reply()
        assert isinstance(refused, Refused)
        assert refused.error == "NodeUnavailable"
        assert (refused.kwargs["state"], refused.kwargs["reason"]) == ("unknown", "its driver has not answered yet")
        wait_until(lambda: call("get_node", node=N2).reply()["state"] == "open", "the other node")
        hang.release()
        wait_until(lambda: call("get_node", node=N1).reply()["state"] == "open", "the slow node")

    def test_a_standby_writes_neither_failures_nor_missing_nodes(
        self, make_worker: MakeWorker, started_worker: WorkerHarness
    ) -> None:
        started_worker.drivers[HOST] = FakeDriver(HOST, nodes={N2: OSError("no hypervisor")})
        standby = make_worker()
        standby.store.inner = started_worker.store.inner
        standby.worker.start()
        host = standby.store.inner.load_host(HOST)
        assert host is not None
        assert {ledger.name: ledger.life.state for ledger in host} == {N1: "open", N2: "unknown"}
        assert host.nodes[N2].life.look is None

    @pytest.mark.parametrize("method", ["start", "register_host"])
    def test_an_unavailable_store_ends_the_start(self, worker_harness: WorkerHarness, method: str) -> None:
        worker_harness.store.script[method] = [StoreUnavailable(reason="connection refused")]
        with pytest.raises(ConfigurationError, match="connection refused"):
            worker_harness.worker.start()
        assert "bus.start" not in worker_harness.store.calls

    def test_a_database_that_goes_back_during_a_start_ends_the_start(self, worker_harness: WorkerHarness) -> None:
        """Whatever restarts processes tries again, on the database as it is then."""
        worker_harness.store.script["take_lease"] = [AnotherHistory("the store is not as it was seen before")]
        with pytest.raises(ConfigurationError, match="cannot start: the store is not as it was seen before"):
            worker_harness.worker.start()

    def test_a_bus_that_cannot_start_ends_the_start(
        self, worker_harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_arguments: Any) -> None:
            raise ConfigurationError("no such broker")

        monkeypatch.setattr(worker_harness.bus, "start", refuse)
        threads = set(threading.enumerate())
        with pytest.raises(ConfigurationError, match="no such broker"):
            worker_harness.worker.start()
        wait_until(lambda: set(threading.enumerate()) <= threads, "the end of its threads")

    def test_a_host_that_is_forgotten_while_a_worker_looks_at_its_markers_is_registered_again(
        self, worker_harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker, store = worker_harness.worker, worker_harness.store
        begin = worker._ownership.begin

        def look(seconds: float) -> None:
            begin(seconds)
            [record] = store.hosts()
            store.forget_host(record.id)

        monkeypatch.setattr(worker._ownership, "begin", look)
        worker.start()
        assert store.host_names() == [HOST]

    def test_a_host_without_nodes_may_start(self, worker_harness: WorkerHarness) -> None:
        worker_harness.driver.nodes.clear()
        worker_harness.worker.start()
        assert worker_harness.caller.call("list_nodes").reply() == []

    @pytest.mark.behaviour("disabled-until-audited")
    def test_a_node_that_is_not_supported_starts_disabled(self, worker_harness: WorkerHarness) -> None:
        worker_harness.driver.nodes[N1] = None
        worker_harness.worker.start()
        assert worker_harness.caller.call("get_node").reply()["disabled"] is True

    def test_a_restart_keeps_the_ledger_and_publishes_nothing_twice(
        self, make_worker: MakeWorker, started_worker: WorkerHarness
    ) -> None:
        started_worker.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        started_worker.worker.stop()
        again = make_worker()
        again.store.inner = started_worker.store.inner
        again.worker.start()
        view = again.caller.call("get_node").reply()
        assert (view["generation"], view["sequence"], view["running_vms"]) == (2, 2, 1)
        again.worker.stop()
        assert again.broker.notifications.empty()

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("hosts =\n", "hosts"),
            ("hosts = a, b\ninventory_driver = host\n", "inventory_driver"),
            (f"hosts = {HOST}\ninventory_driver = nonsense\n", "nonsense"),
        ],
    )
    def test_contradicting_options_end_the_start_before_any_part_starts(
        self, make_worker: MakeWorker, configuration: Path, text: str, named: str
    ) -> None:
        configuration.write_text(f"[tracker]\n{text}")
        with pytest.raises(ConfigurationError, match=named):
            make_worker()


class TestStop:
    def test_the_parts_of_a_worker_stop_in_order(self, started_worker: WorkerHarness) -> None:
        started_worker.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        started_worker.worker.stop()
        assert in_order(started_worker.store.calls, "bus.pause", "bus.stop", "release_lease", "stop")
        assert started_worker.store.calls[-2:] == ["release_lease", "stop"]
        assert not started_worker.worker.ready()

    def test_a_stop_finishes_and_answers_the_current_batch(self, started_worker: WorkerHarness) -> None:
        committing, commit = threading.Event(), threading.Event()
        started_worker.store.script["commit"] = [lambda: (committing.set(), commit.wait(SECONDS))]
        claim = started_worker.caller.call("begin_resource_claim", instance=instance_dict(1))
        assert committing.wait(SECONDS)
        stopping = threading.Thread(target=started_worker.worker.stop)
        stopping.start()
        wait_until(lambda: "bus.pause" in started_worker.store.calls, "pausing")
        started_worker.caller.cast("begin_resource_claim", instance=instance_dict(2))
        commit.set()
        stopping.join(SECONDS)
        assert claim.reply()["instance_uuid"] == uuid(1)
        assert in_order(started_worker.store.calls, "bus.pause", "bus.stop", "stop")
        # Only the request that had not begun waits for the next worker.
        assert [delivery.source for delivery in started_worker.broker._waiting[HOST]] == [HOST]

    def test_a_stop_writes_the_cursors(self, started_worker: WorkerHarness) -> None:
        started_worker.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        started_worker.worker.stop()
        [stream] = started_worker.store.inner.streams(HOST)
        assert (stream.node, dict(stream.cursors)) == (N1, {"notifications": 2})

    def test_a_worker_may_be_stopped_twice_and_without_a_start(self, worker_harness: WorkerHarness) -> None:
        worker_harness.worker.stop()
        worker_harness.worker.stop()

    def test_a_driver_that_hangs_does_not_delay_the_stop(self, started_worker: WorkerHarness) -> None:
        hang = started_worker.driver.hang(N1)
        started_worker.caller.cast("update_available_resource")
        assert hang.entered.wait(SECONDS)
        started_worker.worker.stop()
        hang.release()

    def test_start_and_stop_leave_no_thread_and_no_open_file(self, make_worker: MakeWorker) -> None:
        stress(lambda: make_worker().worker, rounds=3)


def in_order(calls: Sequence[str], *wanted: str) -> bool:
    """Whether ``wanted`` were called in this order, with any other calls between them."""
    rest = iter(calls)
    return all(name in rest for name in wanted)


def test_an_error_that_ends_a_part_is_reported(started_worker: WorkerHarness) -> None:
    started_worker.store.script["commit"] = [ZeroDivisionError("a store that breaks its contract")]
    started_worker.caller.cast("begin_resource_claim", instance=instance_dict(1))
    assert isinstance(started_worker.deaths.get(timeout=SECONDS), ZeroDivisionError)


@pytest.mark.behaviour("early-deletions")
@pytest.mark.parametrize(("passed", "refused"), [(599, True), (601, False)])
def test_after_a_step_of_the_clock_forward_a_deletion_is_remembered_for_as_long_as_before(
    started_worker: WorkerHarness, passed: int, refused: bool
) -> None:
    deleted = {"uuid": uuid(1), "vm_state": "deleted"}
    started_worker.caller.call("update_usage", instance=deleted).reply()
    started_worker.clock.step(3600)
    started_worker.worker._clock.sync()
    started_worker.clock.forward(passed)
    answer = started_worker.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    assert (isinstance(answer, Refused) and answer.error == "ClaimConflict") is refused


@pytest.mark.behaviour("early-deletions")
@pytest.mark.parametrize(("passed", "refused"), [(599, True), (601, False)])
def test_a_worker_that_starts_after_a_step_of_the_clock_remembers_deletions_for_as_long(
    make_worker: MakeWorker, started_worker: WorkerHarness, passed: int, refused: bool
) -> None:
    deleted = {"uuid": uuid(1), "vm_state": "deleted"}
    started_worker.caller.call("update_usage", instance=deleted).reply()
    started_worker.worker.stop()
    started_worker.clock.step(3600)
    second = make_worker()
    second.store.inner = started_worker.store.inner
    second.worker.start()
    second.clock.forward(passed)
    answer = second.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    assert (isinstance(answer, Refused) and answer.error == "ClaimConflict") is refused
