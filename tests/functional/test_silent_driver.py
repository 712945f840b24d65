# SPDX-License-Identifier: Apache-2.0
"""A node whose driver answers nothing for a while keeps its books; one that never had an inventory has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import MakeWorker
from tests.support import stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.deadline import wait_until
from tests.support.fleet import FAILING, GOOD, SILENT, Answers, Fleet
from tests.support.worker_process import WorkerProcess
from tracker_worker.errors import ComputeResourcesUnavailable, NodeUnavailable

HOST = "iron"
NODE = "bm-1"
WHOLE = {"vcpu": 16}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.fixture
def start_worker(make_worker: MakeWorker, fleet: Fleet) -> Callable[[Answers], WorkerProcess]:
    """Start a worker whose driver answers so."""

    def start(answers: Answers, **tracker: Any) -> WorkerProcess:
        fleet.answer(answers)
        options = {"tracker": {"inventory_driver": "fleet", "audit_interval_seconds": 3600, **tracker}}
        worker = make_worker(hosts={HOST: {}}, options=options, environment=fleet.environment)
        worker.start()
        worker.wait_ready()
        return worker

    return start


def begin(client: stock.Client, number: int, node: str = NODE) -> Any:
    instance = instance_dict(number, node=node, **sized(vcpus=16, memory_mb=64, disk_gb=1))
    return client.call(HOST, "begin_resource_claim", instance=instance, limits=WHOLE)


def look(client: stock.Client, state: str) -> Any:
    """Let the worker look at NODE, and return its view once it has this state."""
    client.cast(HOST, "update_available_resource", node=NODE)

    def view() -> Any:
        found = client.call(HOST, "get_node", node=NODE)
        return found if found["state"] == state else None

    return wait_until(view, f"{NODE} is {state}")


@pytest.mark.parametrize("silence", [SILENT, FAILING])
def test_a_node_whose_driver_is_silent_once_takes_claims_on_its_last_inventory(
    start_worker: Callable[[Answers], WorkerProcess], client: stock.Client, fleet: Fleet, silence: str
) -> None:
    start_worker({NODE: GOOD, "bm-7": GOOD})
    fleet.answer({NODE: silence, "bm-7": GOOD})
    stale = look(client, "stale")
    assert (stale["disabled"], stale["vcpus"]) == (False, 16)

    assert begin(client, 1)["state"] == "begun"
    fleet.answer({NODE: GOOD, "bm-7": GOOD})

    look(client, "open")
    active = {"uuid": uuid(1), "node": NODE, "vm_state": "active"}
    assert client.call(HOST, "update_usage", instance=active) == {"tracked": True, "changed": True}
    view = client.call(HOST, "get_node", node=NODE)
    assert (view["running_vms"], view["vcpus_used"]) == (1, 16)
    with pytest.raises(ComputeResourcesUnavailable):
        begin(client, 2)


def test_an_untracked_claim_is_told_to_billing(
    start_worker: Callable[[Answers], WorkerProcess], client: stock.Client, listener: stock.Listener
) -> None:
    start_worker({NODE: SILENT})
    view = client.call(HOST, "get_node")
    assert (view["state"], view["disabled"]) == ("unsupported", True)

    assert begin(client, 1) is None

    sequence = client.call(HOST, "get_node", node=NODE)["sequence"]
    told = listener.wait_for(HOST, NODE, sequence)[-1]
    assert (told.event_type, told.priority, told.payload["instance_id"]) == ("tracker.claim.untracked", "info", uuid(1))
    assert told.payload["charged"] == {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}
    update = {"uuid": uuid(1), "vm_state": "active"}
    assert client.call(HOST, "update_usage", instance=update) == {"tracked": False, "changed": False}


def test_a_node_of_which_nothing_is_known_takes_no_claims_and_keeps_nobody_from_the_others(
    start_worker: Callable[[Answers], WorkerProcess], client: stock.Client
) -> None:
    start_worker({NODE: FAILING, **{f"bm-{number}": GOOD for number in range(2, 50)}})

    with pytest.raises(NodeUnavailable) as refused:
        begin(client, 1)

    facts = {"host": HOST, "node": NODE, "state": "unknown"}
    assert refused.value.kwargs.items() >= facts.items()
    assert "the controller of bm-1 does not answer" in refused.value.kwargs["reason"]
    assert begin(client, 2, "bm-49")["state"] == "begun"
