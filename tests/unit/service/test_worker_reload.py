# SPDX-License-Identifier: Apache-2.0
"""A worker's periodic chores, and the reload of its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import HOST, TOTAL, driver_resource_dict, instance_dict, node_name, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.worker import WorkerHarness
from tests.unit.service.conftest import MakeWorker
from tracker_worker.errors import ConfigurationError
from tracker_worker.service import worker as module

N1 = node_name(1)


class TestReload:
    def options(self, configuration: Path, text: str) -> None:
        configuration.write_text(f"[tracker]\nhosts = {HOST}\ninventory_driver = fake\n{text}")

    def claim(self, worker_harness: WorkerHarness, number: int, **args: Any) -> Any:
        return worker_harness.caller.call("begin_resource_claim", instance=instance_dict(number), **args).reply()

    def test_reloaded_options_apply_to_later_requests(self, started_worker: WorkerHarness, configuration: Path) -> None:
        assert self.claim(started_worker, 1)["expires_at"] == "2026-01-15T12:10:00.000000Z"
        assert self.claim(started_worker, 1)["limit_source"] == "unlimited"
        self.options(configuration, "claim_timeout_seconds = 60\nmissing_limit = capacity\nexpired_claims = release\n")
        started_worker.worker.reload()
        claim = self.claim(started_worker, 2)
        assert (claim["expires_at"], claim["limit_source"]) == ("2026-01-15T12:01:00.000000Z", "capacity")
        started_worker.clock.forward(61)
        started_worker.caller.call("update_available_resource").reply()
        assert [claim["instance_uuid"] for claim in started_worker.caller.call("list_claims").reply()] == [uuid(1)]
        assert started_worker.caller.call("get_node").reply()["running_vms"] == 1

    def test_from_a_reload_on_claims_for_nobody_are_refused_and_nothing_else_is(
        self, started_worker: WorkerHarness, configuration: Path
    ) -> None:
        nobody = {"project_id": None, "user_id": None}
        call = started_worker.caller.call
        before = call("begin_resource_claim", instance=instance_dict(1, **nobody)).reply()
        self.options(configuration, "missing_owner = refuse\n")
        started_worker.worker.reload()
        refused = call("begin_resource_claim", instance=instance_dict(2, **nobody)).reply()
        assert (refused.error, refused.kwargs["field"]) == ("InvalidInput", "instance.project_id")
        assert call("get_node").reply()["running_vms"] == 1
        assert self.claim(started_worker, 3)["instance_uuid"] == uuid(3)
        # What is charged to nobody goes on being charged, and gets an owner by an update.
        assert call("finish_resource_claim", claim_id=before["claim_id"]).reply()["state"] == "finished"
        owned = {"uuid": uuid(1), "project_id": "p", "user_id": ""}
        assert call("update_usage", instance=owned).reply() == {"tracked": True, "changed": True}
        assert call("update_usage", instance={"uuid": uuid(1), "project_id": ""}).reply()["changed"] is False
        assert call("get_allocation", instance_uuid=uuid(1)).reply()["project_id"] == "p"

    @pytest.mark.parametrize("text", ["claim_timeout_seconds = soon\n", "missing_limit = bogus\n", "no option\n"])
    def test_an_invalid_configuration_is_logged_and_the_old_options_stay(
        self, started_worker: WorkerHarness, configuration: Path, caplog: pytest.LogCaptureFixture, text: str
    ) -> None:
        self.options(configuration, text)
        started_worker.worker.reload()
        assert "the configuration is not reloaded" in caplog.text
        assert self.claim(started_worker, 1)["expires_at"] == "2026-01-15T12:10:00.000000Z"
        self.options(configuration, "claim_timeout_seconds = 60\n")
        started_worker.worker.reload()
        assert self.claim(started_worker, 2)["expires_at"] == "2026-01-15T12:01:00.000000Z"

    def test_a_missing_configuration_file_is_logged_and_the_old_options_stay(
        self, started_worker: WorkerHarness, configuration: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        configuration.unlink()
        started_worker.worker.reload()
        assert "the configuration is not reloaded" in caplog.text
        assert self.claim(started_worker, 1)["limit_source"] == "unlimited"

    def test_a_reload_reloads_and_reads_the_drivers(self, started_worker: WorkerHarness) -> None:
        started_worker.driver.nodes[N1] = driver_resource_dict(vcpus=64)
        started_worker.worker.reload()
        updated = "tracker.node.updated"
        wait_until(
            lambda: [updated in commit.events for commit in started_worker.store.commits].count(True) == 2,
            "the new inventory",
        )
        assert started_worker.driver.reloads == 1
        assert started_worker.caller.call("get_node").reply()["vcpus"] == 64

    def test_a_driver_that_cannot_be_reloaded_keeps_its_inventory(
        self, started_worker: WorkerHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        started_worker.driver.reload_error = ConfigurationError("no such file")
        started_worker.worker.reload()
        assert f"the inventory of host {HOST} is not reloaded: no such file" in caplog.text
        assert started_worker.caller.call("get_node").reply()["vcpus"] == TOTAL["VCPU"]

    def test_a_reload_reads_the_static_file(
        self, make_worker: MakeWorker, configuration: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def write(**nodes: int) -> None:
            described = {node: {"vcpus": vcpus, "memory_mb": 65536, "local_gb": 100} for node, vcpus in nodes.items()}
            static.write_text(json.dumps({"nodes": described}))

        static = tmp_path / "inventory.yaml"
        configuration.write_text(
            f"[tracker]\nhosts = {HOST}\ninventory_driver = static\n[inventory]\nstatic_file = {static}\n"
        )
        write(one=8)
        worker_harness = make_worker()
        worker_harness.worker.start()
        assert worker_harness.caller.call("get_node").reply()["vcpus"] == 8

        static.write_text("nodes: [")
        worker_harness.worker.reload()
        assert f"the inventory of host {HOST} is not reloaded" in caplog.text
        assert worker_harness.caller.call("get_node").reply()["vcpus"] == 8

        write(one=16, two=4)
        worker_harness.worker.reload()

        def nodes() -> list[tuple[str, int]]:
            return [(view["node"], view["vcpus"]) for view in worker_harness.caller.call("list_nodes").reply()]

        wait_until(lambda: nodes() == [("one", 16), ("two", 4)], lambda: f"the new inventory: {nodes()}")

    def test_a_reload_without_a_start_or_after_a_stop_has_no_effect(self, worker_harness: WorkerHarness) -> None:
        worker_harness.worker.reload()
        worker_harness.worker.start()
        worker_harness.worker.stop()
        worker_harness.worker.reload()


class TestChores:
    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch, configuration: Path) -> None:
        """Timers with intervals of seconds fire almost immediately."""
        real = module.Timers.every

        def every(timers: Any, interval_seconds: float, action: Callable[[], None]) -> Any:
            return real(timers, min(interval_seconds, 0.01), action)

        monkeypatch.setattr(module.Timers, "every", every)

    @pytest.mark.usefixtures("quick")
    def test_a_worker_repeatedly_reads_inventories_renews_leases_and_prunes(
        self, started_worker: WorkerHarness
    ) -> None:
        started_worker.driver.nodes[N1] = driver_resource_dict(vcpus=64)
        wait_until(lambda: len(started_worker.store.commits) >= 2, "the new inventory")
        for method in ("take_lease", "prune"):
            wait_until(lambda method=method: started_worker.store.calls.count(method) >= 3, method)  # type: ignore[misc]
        assert started_worker.caller.call("get_node").reply()["vcpus"] == 64

    def test_the_timers_of_the_worker_send_heartbeats(self, started_worker: WorkerHarness) -> None:
        hang = started_worker.driver.hang(N1)
        call = started_worker.caller.call("update_available_resource", timeout=2)
        assert hang.entered.wait(SECONDS)
        wait_until(lambda: started_worker.caller.heartbeats, "a heartbeat")
        assert not call.replied()
        hang.release()
        call.reply()

    def test_without_notifications_the_outbox_stays_empty(self, make_worker: MakeWorker, configuration: Path) -> None:
        configuration.write_text(configuration.read_text() + "[notifications]\ndriver = noop\n")
        worker_harness = make_worker()
        worker_harness.worker.start()
        worker_harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        worker_harness.worker.stop()
        assert [commit.events for commit in worker_harness.store.commits if commit.nodes] == [[], []]
        assert worker_harness.broker.notifications.empty()
