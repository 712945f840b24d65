# SPDX-License-Identifier: Apache-2.0
"""An end concerns the claim that it names, a deletion may come before its claim, and what is reported built stays charged."""

from __future__ import annotations

from typing import Any

import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.support import stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.deadline import wait_until
from tests.support.worker_process import Options, WorkerProcess
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable

NODE = {"vcpus": 16, "memory_mb": 65536, "local_gb": 1000}
WHOLE = {"vcpu": 16}
# Below it, expired claims are found by called audits only.
CALLED_AUDITS: Options = {"tracker": {"audit_interval_seconds": 3600, "expired_claims": "release"}}


def start(make_worker: MakeWorker, options: Options = CALLED_AUDITS) -> WorkerProcess:
    worker = make_worker(hosts={HOST: {"n1": NODE}}, options=options)
    worker.start()
    worker.wait_ready()
    return worker


def begin(client: stock.Client, number: int, vcpus: int = 2, **arguments: Any) -> Any:
    instance = instance_dict(number, **sized(vcpus=vcpus, memory_mb=64, disk_gb=1))
    return client.call(HOST, "begin_resource_claim", instance=instance, **arguments)


def update(client: stock.Client, number: int, **fields: Any) -> Any:
    return client.call(HOST, "update_usage", instance={"uuid": uuid(number), **fields})


def used(client: stock.Client) -> tuple[int, int]:
    view = client.call(HOST, "get_node")
    return view["running_vms"], view["vcpus_used"]


def expire(client: stock.Client) -> None:
    """Audit until no claim is left."""
    wait_until(
        lambda: client.call(HOST, "update_available_resource") and not client.call(HOST, "list_claims"),
        "the claims expire",
    )


def test_a_late_abort_does_not_end_a_later_claim(make_worker: MakeWorker, client: stock.Client) -> None:
    start(make_worker)
    first = begin(client, 1)
    assert client.call(HOST, "abort_resource_claim", claim_id=first["claim_id"])["state"] == "aborted"
    second = begin(client, 1)
    assert second["claim_id"] != first["claim_id"]

    assert client.call(HOST, "abort_resource_claim", claim_id=first["claim_id"]) is None
    client.cast(HOST, "abort_resource_claim", claim_id=first["claim_id"])

    finished = client.call(HOST, "finish_resource_claim", claim_id=second["claim_id"])
    assert (finished["claim_id"], finished["state"]) == (second["claim_id"], "finished")
    # The uuid names no claim any more: the instance has none that is begun.
    assert client.call(HOST, "abort_resource_claim", claim_id=uuid(1)) is None
    assert used(client) == (1, 2)


def test_a_late_end_of_a_deleted_instance_does_not_end_the_claim_of_its_successor(
    make_worker: MakeWorker, client: stock.Client
) -> None:
    start(make_worker, {"tracker": {"deletion_memory_seconds": 0}})
    first = begin(client, 1)
    client.call(HOST, "finish_resource_claim", claim_id=first["claim_id"])
    update(client, 1, vm_state="deleted")
    second = begin(client, 1)

    for method in ("abort_resource_claim", "finish_resource_claim"):
        assert client.call(HOST, method, claim_id=first["claim_id"]) is None

    assert [claim["claim_id"] for claim in client.call(HOST, "list_claims")] == [second["claim_id"]]
    assert used(client) == (1, 2)


def test_an_instance_that_was_deleted_before_its_claim_is_refused_also_after_a_restart(
    make_worker: MakeWorker, client: stock.Client
) -> None:
    worker = start(make_worker)
    assert update(client, 1, vm_state="deleted") == {"tracked": False, "changed": False}
    # The same instance in another spelling.
    spelled = instance_dict(uuid=uuid(1).replace("-", "").upper())

    for restarted in (False, True):
        if restarted:
            worker.kill()
            worker.start()
            worker.wait_ready()
        for instance in (instance_dict(1), spelled):
            with pytest.raises(ClaimConflict, match="deleted") as refused:
                client.call(HOST, "begin_resource_claim", instance=instance)
            assert refused.value.kwargs["instance_uuid"] == uuid(1)
    assert used(client) == (0, 0)
    assert begin(client, 2)["state"] == "begun"


def test_a_deletion_ends_a_claim_whose_begin_came_first(make_worker: MakeWorker, client: stock.Client) -> None:
    start(make_worker)
    begin(client, 1)

    assert update(client, 1, vm_state="deleted") == {"tracked": True, "changed": True}

    assert (used(client), client.call(HOST, "list_claims")) == ((0, 0), [])


def test_a_claim_whose_instance_was_reported_active_keeps_its_room_when_it_expires(
    make_worker: MakeWorker, client: stock.Client, listener: stock.Listener
) -> None:
    start(make_worker)
    begin(client, 1, vcpus=8, timeout=2)
    begin(client, 2, vcpus=8, timeout=2)
    update(client, 1, vm_state="active", launched_at="2026-01-01T00:00:00Z")
    update(client, 2, task_state="spawning")

    expire(client)

    assert used(client) == (1, 8)
    with pytest.raises(ComputeResourcesUnavailable):
        begin(client, 3, vcpus=9, limits=WHOLE)
    # The client in doubt gives up late: what runs is not its to end.
    assert client.call(HOST, "abort_resource_claim", claim_id=uuid(1)) is None
    view = client.call(HOST, "get_node")
    heard = listener.wait_for(HOST, "n1", view["sequence"])
    expired = {one.payload["instance_id"]: one.payload for one in heard if one.event_type == "tracker.claim.expired"}
    assert {number: expired[uuid(number)]["released"] for number in (1, 2)} == {1: False, 2: True}
    assert [expired[uuid(number)]["charged"]["VCPU"] for number in (1, 2)] == [8, 0]
    assert {one["claim_state"] for one in expired.values()} == {"expired"}
