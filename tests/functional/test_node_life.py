# SPDX-License-Identifier: Apache-2.0
"""Nodes that leave the inventory, are drained, renamed and moved, while their worker runs."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import MakeWorker
from tests.support import stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, PROGRAM, WorkerProcess
from tracker_worker.errors import NodeDraining, NodeNotFound, NodeUnavailable

HOST, OTHER = "h1", "h2"
OLD, NEW = "rack-1", "rack-1.example.org"
SMALL = sized(vcpus=2, memory_mb=1024, disk_gb=1)


@pytest.fixture
def worker(make_worker: MakeWorker) -> WorkerProcess:
    worker = make_worker(hosts={HOST: {OLD: NODE}, OTHER: {"other": NODE}})
    worker.start()
    worker.wait_ready()
    return worker


def command(worker: WorkerProcess, *arguments: str, code: int = 0) -> Any:
    """Run a command of ``tracker-worker``: what it prints as JSON, or its sentence if it ends with another code than 0."""
    formatted = [] if code or (arguments[0] == "host" and arguments[1] != "list") else ["--format", "json"]
    done = subprocess.run(
        [PROGRAM, "--config-file", worker.configuration, *arguments, *formatted],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if formatted else done.stderr or done.stdout


def renamed_if_told(worker: WorkerProcess) -> Any:
    """The node with its new name; None as long as the worker has not closed the period."""
    arguments = ["node", "rename", OLD, NEW, "--host", HOST, "--format", "json"]
    done = subprocess.run(
        [PROGRAM, "--config-file", worker.configuration, *arguments], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        assert "told to billing" in done.stderr, done.stderr
        return None
    return json.loads(done.stdout)


def streams(worker: WorkerProcess) -> list[dict[str, Any]]:
    """Each name that has had events, with the number of its last one."""
    with sqlite3.connect(worker.database) as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute("SELECT host, node, sequence FROM streams")]
    connection.close()
    return found


def begin(client: stock.Client, host: str, number: int, **fields: Any) -> Any:
    return client.call(host, "begin_resource_claim", instance=instance_dict(number, **SMALL, **fields))


def state(client: stock.Client, host: str, node: str) -> str:
    found: str = client.call(host, "get_node", node=node)["state"]
    return found


def test_a_node_that_left_the_inventory_takes_no_claims_and_is_renamed(
    make_worker: MakeWorker, client: stock.Client, listener: stock.Listener
) -> None:
    # What the replaced node was charged is told at the end of a period.
    periods = {"notifications": {"usage_audit_period": "20s"}}
    worker = make_worker(hosts={HOST: {OLD: NODE}, OTHER: {"other": NODE}}, options=periods)
    worker.start()
    worker.wait_ready()
    for number in (1, 2):
        begin(client, HOST, number)
    worker.write_inventory({HOST: {NEW: NODE}, OTHER: {"other": NODE}})
    worker.reload()
    wait_until(lambda: state(client, HOST, OLD) == "missing", "the node is missed")
    wait_until(lambda: state(client, HOST, NEW) == "open", "the new node")

    gone = client.call(HOST, "update_usage", instance={"uuid": uuid(2), "vm_state": "deleted"})
    assert gone == {"tracked": True, "changed": True}
    with pytest.raises(NodeUnavailable) as refused:
        begin(client, HOST, 3, node=OLD)
    assert refused.value.kwargs["state"] == "missing"
    with pytest.raises(NodeNotFound):
        client.call(HOST, "update_available_resource", node=OLD)
    assert begin(client, HOST, 3)["node"] == NEW
    assert "is charged for 1 instance:" in command(worker, "node", "rename", OLD, NEW, "--host", HOST, code=1)
    client.call(HOST, "update_usage", instance={"uuid": uuid(3), "vm_state": "deleted"})

    renamed = wait_until(lambda: renamed_if_told(worker), "the usage is told", seconds=60)
    assert (renamed["state"], renamed["running_vms"]) == ("open", 1)
    # The worker has learned nothing of it but what is in the database.
    assert client.call(HOST, "get_node") == renamed
    assert begin(client, HOST, 4)["node"] == NEW
    assert client.call(HOST, "update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"})["tracked"]
    told = {heard.sequence: heard.payload for heard in listener.wait_for(HOST, NEW, renamed["sequence"])}
    first = told[renamed["sequence"]]
    assert (first["node"], first["previous_host"], first["previous_node"]) == (NEW, HOST, OLD)


def test_the_last_event_of_an_old_name_is_published(
    worker: WorkerProcess, client: stock.Client, listener: stock.Listener
) -> None:
    begin(client, HOST, 1)
    last = client.call(HOST, "get_node")["sequence"] + 1
    command(worker, "node", "rename", OLD, NEW, "--host", HOST)
    told = listener.wait_for(HOST, OLD, last)[-1]
    assert (told.payload["next_host"], told.payload["next_node"]) == (HOST, NEW)


def test_a_drained_node_refuses_claims_at_once(worker: WorkerProcess, client: stock.Client) -> None:
    claim = begin(client, HOST, 1)
    command(worker, "node", "drain", OLD, "--reason", "disk replaced")
    with pytest.raises(NodeDraining) as refused:
        begin(client, HOST, 2)
    assert refused.value.kwargs == {"host": HOST, "node": OLD, "reason": "disk replaced"}
    assert client.call(HOST, "finish_resource_claim", claim_id=claim["claim_id"])["state"] == "finished"
    assert uuid(1) in command(worker, "node", "retire", OLD, code=1)
    command(worker, "node", "undrain", OLD)
    assert begin(client, HOST, 2)["node"] == OLD


def test_a_machine_that_goes_to_another_host_takes_its_charges_along(
    worker: WorkerProcess, client: stock.Client, listener: stock.Listener
) -> None:
    claim = begin(client, HOST, 1)
    worker.write_inventory({HOST: {"new": NODE}, OTHER: {"other": NODE, OLD: NODE}})
    worker.reload()
    wait_until(lambda: state(client, HOST, OLD) == "missing", "the node is missed")
    wait_until(lambda: state(client, OTHER, OLD) == "unknown", "the other host knows of it")
    with pytest.raises(NodeUnavailable):
        begin(client, OTHER, 2, node=OLD)
    worker.wait_for_log(f"tracker-worker node move {OLD} --host {HOST} --to {OTHER}")

    moved = command(worker, "node", "move", OLD, "--host", HOST, "--to", OTHER)
    assert (moved["host"], moved["state"], moved["running_vms"]) == (OTHER, "open", 1)
    finished = client.call(OTHER, "finish_resource_claim", claim_id=claim["claim_id"])
    assert (finished["host"], finished["node"], finished["state"]) == (OTHER, OLD, "finished")
    assert client.call(HOST, "get_node")["node"] == "new"
    assert begin(client, OTHER, 2, node=OLD)["host"] == OTHER
    last = next(stream["sequence"] for stream in streams(worker) if (stream["host"], stream["node"]) == (HOST, OLD))
    told = listener.wait_for(HOST, OLD, last)[-1]
    assert (told.payload["next_host"], told.payload["next_node"]) == (OTHER, OLD)
    wait_until(lambda: listener.heard(OTHER, OLD), "the new name is told")
    ledger_ids = {heard.payload["ledger_id"] for heard in listener.heard(OTHER, OLD)}
    assert ledger_ids == {told.payload["ledger_id"]}


def test_a_retired_node_is_gone_for_clients_though_its_driver_lists_it(
    worker: WorkerProcess, client: stock.Client
) -> None:
    command(worker, "node", "retire", OLD, "--reason", "sold")
    worker.reload()
    with pytest.raises(NodeNotFound):
        client.call(HOST, "get_node", node=OLD)
    assert client.call(HOST, "list_nodes") == []
    with pytest.raises(NodeNotFound):
        begin(client, HOST, 1, node=OLD)
    assert [view["state"] for view in command(worker, "node", "list", "--host", HOST)] == ["retired"]


def test_a_host_gets_another_name_when_nobody_serves_it(worker: WorkerProcess, client: stock.Client) -> None:
    claim = begin(client, HOST, 1)
    assert "is served by worker" in command(worker, "host", "rename", HOST, "h9", code=1)
    (first, second) = command(worker, "host", "list")
    assert (first["host"], first["queue"], first["instances"]) == (HOST, f"tracker.{HOST}", 1)
    assert first["active"] == second["active"] is not None
    worker.terminate()
    assert f"tracker.{HOST}" in command(worker, "host", "rename", HOST, "h9")
    assert [host["host"] for host in command(worker, "host", "list")] == [OTHER, "h9"]
    assert uuid(1) in command(worker, "host", "forget", "h9", code=1)
    worker.configure({"tracker": {"hosts": f"h9, {OTHER}"}})
    worker.write_inventory({"h9": {OLD: NODE}, OTHER: {"other": NODE}})
    worker.start()
    worker.wait_ready()
    assert client.call("h9", "finish_resource_claim", claim_id=claim["claim_id"])["host"] == "h9"


def test_two_hundred_slow_nodes_keep_a_worker_from_nothing(
    make_worker: MakeWorker, client: stock.Client, tmp_path: Path
) -> None:
    """The driver takes 5 s for each node of one host; the other host is quick."""
    package = tmp_path / "slow_driver-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-driver\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[tracker_worker.inventory]\nslow = slowdriver:Slow\n")
    (tmp_path / "slowdriver.py").write_text(
        "import time\n"
        "from tracker_worker.inventory.base import InventoryDriver\n"
        "from tracker_worker.inventory.fake import fake_resource\n"
        "class Slow(InventoryDriver):\n"
        "    def get_available_nodes(self):\n"
        "        return [f'n{i}' for i in range(200 if self.host == 'slow' else 1)]\n"
        "    def get_available_resource(self, node):\n"
        "        time.sleep(5 if self.host == 'slow' else 0)\n"
        "        return fake_resource(nodename=node)\n"
    )
    options = {"tracker": {"inventory_driver": "slow", "audit_interval_seconds": 3600}}
    worker = make_worker(hosts={"slow": {}, "quick": {}}, options=options, environment={"PYTHONPATH": str(tmp_path)})
    worker.start()
    worker.wait_ready()
    assert begin(client, "quick", 1)["node"] == "n0"
    with pytest.raises(NodeUnavailable) as refused:
        begin(client, "slow", 2, node="n199")
    assert refused.value.kwargs["state"] == "unknown"
    views = client.call("slow", "list_nodes")
    assert len(views) == 200
    wait_until(lambda: any(view["state"] == "open" for view in client.call("slow", "list_nodes")), "the first answers")
