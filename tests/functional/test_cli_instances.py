# SPDX-License-Identifier: Apache-2.0
"""The subcommands for claims and instances beside a running worker, and without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import MakeWorker
from tests.functional.test_cli import HOSTS, SMALL, Operator
from tests.support.stock import Client, client
from tests.support.worker_process import WorkerProcess


@pytest.fixture
def worker(make_worker: MakeWorker) -> WorkerProcess:
    started = make_worker(hosts=HOSTS, options={"tracker": {"audit_interval_seconds": 3600}})
    started.start()
    started.wait_ready()
    return started


@pytest.fixture
def operator(worker: WorkerProcess) -> Operator:
    return Operator(worker)


def begin(operator: Operator, uuid: str, *arguments: str) -> Any:
    return operator.json("claim", "begin", "--host", "h1", "--uuid", uuid, *SMALL, *arguments)


def views(rpc: Client) -> tuple[int, Any]:
    return rpc.call("h1", "get_node")["running_vms"], rpc.call("h1", "list_claims")


def test_a_claim_is_begun_under_the_given_id_and_renewed(operator: Operator) -> None:
    begun = begin(operator, "i-1", "--claim-id", "c-1", "--on-expiry", "release", "--timeout", "60")
    assert (begun["claim_id"], begun["on_expiry"]) == ("c-1", "release")
    renewed = operator.json("claim", "renew", "c-1", "--host", "h1", "--timeout", "600")
    assert renewed["expires_at"] > begun["expires_at"]
    assert (
        operator.json("claim", "renew", "c-1", "--host", "h1", "--timeout", "1")["expires_at"] == renewed["expires_at"]
    )
    operator.json("claim", "finish", "c-1", "--host", "h1")
    assert "host h1 has no claim c-1" in operator.refuse("claim", "renew", "c-1", "--host", "h1")


def test_a_pinned_program_says_what_it_may_not_send(operator: Operator) -> None:
    with operator.worker.configuration.open("a", encoding="utf-8") as file:
        file.write("\n[upgrade_levels]\ntracker = 1.0\n")
    begun = begin(operator, "i-1")
    sentence = operator.refuse("claim", "renew", begun["claim_id"], "--host", "h1")
    assert "needs version 1.1 of the RPC API, and [upgrade_levels] tracker is 1.0" in sentence
    assert operator.json("claim", "finish", begun["claim_id"], "--host", "h1")["state"] == "finished"


def test_a_ghost_is_found_shown_and_released_while_the_worker_runs(
    operator: Operator, broker_vhost: str, tmp_path: Path
) -> None:
    running = tmp_path / "running.txt"
    for uuid in ("ghost", "real"):
        operator.json("claim", "finish", begin(operator, uuid)["claim_id"], "--host", "h1")
    running.write_text("real\n", encoding="utf-8")
    with client(broker_vhost) as rpc:
        assert views(rpc) == (2, [])
        done = operator.run("instance", "compare", "--host", "h1", "--file", str(running), "--format", "json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["charged_not_running"] == ["ghost"]
        listed = operator.json("instance", "list")
        assert listed == rpc.call("h1", "list_allocations")["allocations"]
        assert operator.json("instance", "show", "ghost") == listed[0]
        # The worker has the node in memory and decides on it next.
        released = operator.json("instance", "release", "ghost", "--host", "h1", "--reason", "lost")
        assert released == listed[0]
        assert rpc.call("h1", "update_usage", instance={"uuid": "ghost"}) == {"tracked": False, "changed": False}
        assert views(rpc)[0] == 1
        assert rpc.call("h1", "report_instances", uuids=["real"]) == {
            "charged_not_running": [],
            "running_not_charged": [],
            "building": [],
        }
    assert "instance ghost is charged nothing on any host" in operator.refuse("instance", "show", "ghost")
    sentence = operator.refuse("instance", "release", "ghost", "--host", "h1", "--reason", "lost")
    assert "host h1 is charged nothing for instance ghost" in sentence


def test_a_claim_that_waits_for_a_released_instance_sees_the_room(operator: Operator, broker_vhost: str) -> None:
    begin(operator, "ghost", "--limit-vcpu", "1")
    with client(broker_vhost) as rpc:
        instance = {"uuid": "next", "vcpus": 1, "memory_mb": 1024, "root_gb": 10, "ephemeral_gb": 0}
        told = rpc.call("h1", "would_fit", instance=instance, limits={"vcpu": 1})
        assert told["fits"] is False
        operator.json("instance", "release", "ghost", "--host", "h1", "--reason", "lost")
        assert rpc.call("h1", "begin_resource_claim", instance=instance, limits={"vcpu": 1})["state"] == "begun"


def test_instances_are_released_without_a_worker(operator: Operator) -> None:
    begin(operator, "i-1")
    operator.worker.kill()
    assert operator.json("instance", "release", "i-1", "--host", "h1", "--reason", "lost")["instance_uuid"] == "i-1"
    assert operator.json("instance", "list") == []
    assert operator.json("usage") == {}
