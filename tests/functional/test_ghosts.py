# SPDX-License-Identifier: Apache-2.0
"""An operator finds, compares and releases what is charged and does not run, whether the worker is up or down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.functional.test_cli import Operator
from tests.support import stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.worker_process import NODE, WorkerProcess

SIZES = sized(vcpus=2, memory_mb=4096, disk_gb=20)
RESOURCES = {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 20}
GHOST, RUNNING, BUILDING, STRANGER = (uuid(number) for number in (1, 2, 3, 4))


@pytest.fixture
def worker(make_worker: MakeWorker, client: stock.Client) -> WorkerProcess:
    """A worker with a ghost, an instance that runs, and one that is being built, on two nodes."""
    worker = make_worker(hosts={HOST: {"n1": NODE, "n2": NODE}})
    worker.start()
    worker.wait_ready()
    for number, node in ((1, "n1"), (2, "n1"), (3, "n2")):
        instance = instance_dict(number, node=node, project_id=f"p{number}", **SIZES)
        claim = client.call(HOST, "begin_resource_claim", instance=instance)
        if number != 3:
            client.call(HOST, "finish_resource_claim", claim_id=claim["claim_id"])
    return worker


@pytest.fixture
def operator(worker: WorkerProcess) -> Operator:
    return Operator(worker)


@pytest.fixture(params=["up", "down"])
def is_up(request: pytest.FixtureRequest, worker: WorkerProcess, operator: Operator) -> bool:
    """Whether the worker runs while the operator is at work."""
    if request.param == "down":
        worker.terminate()
    return bool(request.param == "up")


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["instance_uuid"] for entry in entries]


def test_every_charge_is_listed_as_node_list_and_usage_count_it(operator: Operator, is_up: bool) -> None:
    listed = operator.json("instance", "list")

    assert names(listed) == [GHOST, RUNNING, BUILDING]
    assert {entry["node"]: entry["claim_state"] for entry in listed} == {"n1": "finished", "n2": "begun"}
    usage = operator.json("usage")
    assert usage == {entry["project_id"]: {"instances": 1, **entry["resources"]} for entry in listed}
    for view in operator.json("node", "list"):
        here = [entry["resources"]["VCPU"] for entry in listed if entry["node"] == view["node"]]
        assert (view["running_vms"], view["vcpus_used"]) == (len(here), sum(here))
    assert names(operator.json("instance", "list", "--host", HOST, "--node", "n2")) == [BUILDING]
    assert names(operator.json("instance", "list", "--project", "p1")) == [GHOST]
    shown = operator.json("instance", "show", GHOST.upper())
    assert shown == listed[0]
    assert shown["resources"] == RESOURCES
    assert STRANGER in operator.refuse("instance", "show", STRANGER)


def test_what_runs_is_compared_with_what_is_charged(
    operator: Operator, is_up: bool, listener: stock.Listener, tmp_path: Path
) -> None:
    running = tmp_path / "running"
    running.write_text(f"{RUNNING.upper()}\n{STRANGER}\n", encoding="utf-8")

    done = operator.run(
        "instance", "compare", "--host", HOST, "--node", "n1", "--file", str(running), "--format", "json"
    )

    found = {"charged_not_running": [GHOST], "running_not_charged": [STRANGER], "building": []}
    assert (done.returncode, json.loads(done.stdout)) == (1, found)
    if is_up:
        sequence = operator.json("node", "show", "n1")["sequence"]
        told = listener.wait_for(HOST, "n1", sequence)[-1]
        assert told.event_type == "tracker.node.drift"
        assert told.payload.items() >= {"kind": "instances", **found}.items()
    assert len(operator.json("instance", "list")) == 3
    running.write_text(f"{RUNNING}\n{GHOST}\n", encoding="utf-8")
    same = operator.json("instance", "compare", "--host", HOST, "--node", "n1", "--file", str(running))
    assert same == {"charged_not_running": [], "running_not_charged": [], "building": []}


def test_a_ghost_is_released_once_with_a_reason_that_billing_hears(
    worker: WorkerProcess, operator: Operator, is_up: bool, client: stock.Client, listener: stock.Listener
) -> None:
    released = operator.json("instance", "release", GHOST, "--host", HOST, "--reason", "its disk is gone")

    assert (released["instance_uuid"], released["resources"]) == (GHOST, RESOURCES)
    assert GHOST in operator.refuse("instance", "release", GHOST, "--host", HOST, "--reason", "again")
    if not is_up:
        worker.start()
        worker.wait_ready()
    view = client.call(HOST, "get_node", node="n1")
    assert (view["running_vms"], view["vcpus_used"]) == (1, 2)
    told = [one for one in listener.wait_for(HOST, "n1", view["sequence"]) if one.payload.get("instance_id") == GHOST]
    assert told[-1].event_type == "tracker.usage.released"
    assert told[-1].payload["reason"] == "its disk is gone"
    assert told[-1].payload["released_by"]
    assert client.call(HOST, "update_usage", instance={"uuid": GHOST, "vm_state": "active"})["tracked"] is False
