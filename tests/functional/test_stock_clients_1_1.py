# SPDX-License-Identifier: Apache-2.0
"""Stock clients get what RPC API 1.1 adds: ids and renewals of claims, groups, a dry run, pages, releases, comparison, classes,
adoption."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from tests.servers import RabbitMQServer
from tests.support import stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.stock import CONTEXT
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker import errors

# Each test has a host of its own, so that tests do not share a ledger.
HOSTS = {
    "ids": {"n1": NODE},
    "renewed": {"n1": NODE},
    "groups": {"n1": NODE, "n2": NODE},
    "dry": {"n1": NODE},
    "paged": {"n1": NODE, "n2": NODE},
    "asked": {"n1": NODE},
    "late": {"n1": NODE, "n2": NODE},
    "released": {"n1": NODE},
    "compared": {"n1": NODE},
    "classes": {"n1": {**NODE, "resources": {f"CUSTOM_{number}": 4 for number in range(20)}}},
    "adopted": {"n1": {**NODE, "resources": {"VGPU": {"total": 4, "reserved": 1}}}},
}
CLAIM_ID = "0192E4F0-5C7B-7A3E-8D21-0A1B2C3D4E5F"
MANY = 7


class Client(stock.Client):
    """A stock client of version 1.1."""

    def prepare(self, host: str | None = None, **options: Any) -> Any:
        return super().prepare(host, **{"version": "1.1", **options})


@pytest.fixture(scope="module")
def url(rabbitmq: RabbitMQServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The transport URL of a worker of HOSTS."""
    rabbitmq.ensure_running()
    url = rabbitmq.virtual_host_url()
    worker = WorkerProcess(tmp_path_factory.mktemp("worker"), transport_url=url, hosts=HOSTS)
    try:
        worker.start()
        worker.wait_ready()
        yield url
    finally:
        worker.close()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with stock.client(url) as connected:
        connected.__class__ = Client
        yield connected  # type: ignore[misc]


@pytest.fixture(scope="module")
def listener(url: str) -> Iterator[stock.Listener]:
    """A listener of every notification of the worker."""
    with stock.listener(url) as listening:
        yield listening


def small(number: int, **fields: Any) -> dict[str, Any]:
    return instance_dict(number, **{**sized(vcpus=1, memory_mb=64, disk_gb=1), **fields})


def last(client: Client, listener: stock.Listener, host: str) -> stock.Heard:
    """The last notification of the host's only node."""
    sequence = client.call(host, "get_node")["sequence"]
    return listener.wait_for(host, "n1", sequence)[-1]


def test_a_caller_in_doubt_ends_exactly_the_claim_whose_id_it_chose(client: Client) -> None:
    claim = client.call("ids", "begin_resource_claim", instance=small(1), claim_id=CLAIM_ID, on_expiry="release")
    assert (claim["claim_id"], claim["on_expiry"]) == (CLAIM_ID.lower(), "release")
    # A repetition is answered with the first claim, and its own id names nothing.
    repeated = client.call("ids", "begin_resource_claim", instance=small(1), claim_id=str(UUID(int=7)))
    assert repeated["claim_id"] == claim["claim_id"]
    assert client.call("ids", "abort_resource_claim", claim_id=str(UUID(int=7))) is None

    with pytest.raises(errors.ClaimConflict, match=CLAIM_ID.lower()):
        client.call("ids", "begin_resource_claim", instance=small(2), claim_id=CLAIM_ID)

    assert client.call("ids", "abort_resource_claim", claim_id=f"urn:uuid:{CLAIM_ID}")["state"] == "aborted"
    assert client.call("ids", "abort_resource_claim", claim_id=CLAIM_ID) is None


def test_a_renewed_claim_expires_later_and_never_earlier(client: Client, listener: stock.Listener) -> None:
    claim = client.call("renewed", "begin_resource_claim", instance=small(1), timeout=600)
    renewed = client.call("renewed", "renew_resource_claim", claim_id=claim["claim_id"], timeout=3600)
    seconds = [
        (datetime.fromisoformat(one["expires_at"]) - datetime.fromisoformat(claim["begun_at"])).total_seconds()
        for one in (claim, renewed)
    ]
    assert seconds[0] == 600
    assert seconds[1] >= 3600
    assert {**renewed, "expires_at": "", "generation": 0} == {**claim, "expires_at": "", "generation": 0}
    told = last(client, listener, "renewed")
    assert (told.event_type, told.payload["expires_at"]) == ("tracker.claim.renewed", renewed["expires_at"])

    assert client.call("renewed", "renew_resource_claim", claim_id=claim["claim_id"], timeout=1) == renewed

    client.call("renewed", "finish_resource_claim", claim_id=claim["claim_id"])
    assert client.call("renewed", "renew_resource_claim", claim_id=claim["claim_id"]) is None


def test_a_group_of_claims_is_granted_whole_or_not_at_all(client: Client) -> None:
    def group(*vcpus: int) -> list[dict[str, Any]]:
        return [
            {"instance": small(number, node=f"n{1 + number % 2}", vcpus=wanted), "limits": {"vcpu": 8}}
            for number, wanted in enumerate(vcpus)
        ]

    with pytest.raises(errors.ComputeResourcesUnavailable) as refused:
        client.call("groups", "begin_resource_claims", claims=group(5, 6, 4, 1, 9))
    assert [(short["instance_uuid"], short["node"]) for short in refused.value.kwargs["shortfalls"]] == [
        (uuid(2), "n1"),
        (uuid(4), "n1"),
    ]
    with pytest.raises(errors.InvalidInput) as invalid:
        client.call("groups", "begin_resource_claims", claims=group(1, -1))
    assert invalid.value.kwargs["field"] == "claims.1.instance.vcpus"
    assert [view["running_vms"] for view in client.call("groups", "list_nodes")] == [0, 0]

    claims = client.call("groups", "begin_resource_claims", claims=group(5, 6, 3, 2), timeout=60)

    assert [claim["instance_uuid"] for claim in claims] == [uuid(number) for number in range(4)]
    by_node = {node: {claim["generation"] for claim in claims if claim["node"] == node} for node in ("n1", "n2")}
    assert all(len(generations) == 1 for generations in by_node.values())
    assert [view["vcpus_used"] for view in client.call("groups", "list_nodes")] == [8, 8]


def test_a_dry_run_answers_what_a_begin_would_and_changes_nothing(client: Client) -> None:
    before = client.call("dry", "get_node")
    limits = {"vcpu": 4}
    fits = client.call("dry", "would_fit", instance=small(1, vcpus=4), limits=limits)
    lacks = client.call("dry", "would_fit", instance=small(1, vcpus=5), limits=limits)

    assert fits == {"fits": True, "shortfalls": [], "limit_source": "caller"}
    assert client.call("dry", "get_node") == before
    with pytest.raises(errors.ComputeResourcesUnavailable) as refused:
        client.call("dry", "begin_resource_claim", instance=small(1, vcpus=5), limits=limits)
    assert lacks == {"fits": False, "shortfalls": refused.value.kwargs["shortfalls"], "limit_source": "caller"}
    assert client.call("dry", "begin_resource_claim", instance=small(1, vcpus=4), limits=limits)["state"] == "begun"


def test_pages_of_allocations_and_claims_are_complete_and_in_order(client: Client) -> None:
    wanted = [small(number, node=f"n{1 + number % 2}", project_id=f"p{number % 3}") for number in range(MANY)]
    begun = [client.call("paged", "begin_resource_claim", instance=one) for one in reversed(wanted)]
    client.call("paged", "update_usage", instance={"uuid": uuid(1), "vm_state": "active"})

    def pages(method: str, key: str, **arguments: Any) -> Iterator[list[Any]]:
        after = None
        while True:
            page = client.call("paged", method, limit=2, after=after, **arguments)
            found = page[key] if key else page
            yield found
            after = page["next"] if key else (found[-1]["claim_id"] if len(found) == 2 else None)
            if after is None:
                return

    allocations = [one for page in pages("list_allocations", "allocations") for one in page]
    assert [one["instance_uuid"] for one in allocations] == [uuid(number) for number in range(MANY)]
    whole = client.call("paged", "list_allocations")
    assert (whole["allocations"], whole["next"]) == (allocations, None)
    views = {view["node"]: view for view in client.call("paged", "list_nodes")}
    assert whole["sequences"] == {name: view["sequence"] for name, view in views.items()}
    assert {view["ledger_id"] for view in views.values()} == {whole["ledger_id"]}
    claims = [one for page in pages("list_claims", "") for one in page]
    assert [one["claim_id"] for one in claims] == [one["claim_id"] for one in begun]

    mine = client.call("paged", "list_allocations", project_id="p1", node="n2")["allocations"]
    assert [one["instance_uuid"] for one in mine] == [uuid(1)]
    assert client.call("paged", "list_allocations", state="active")["allocations"] == mine
    assert client.call("paged", "get_allocation", instance_uuid=uuid(1).upper()) == mine[0]
    assert mine[0] == {
        "instance_uuid": uuid(1),
        "host": "paged",
        "node": "n2",
        "project_id": "p1",
        "user_id": wanted[1]["user_id"],
        "resources": {"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1},
        "role": "instance",
        "vm_state": "active",
        "task_state": "scheduling",
        "claim_id": begun[-2]["claim_id"],
        "claim_state": "begun",
        "begun_at": begun[-2]["begun_at"],
    }
    assert client.call("paged", "get_allocation", instance_uuid=uuid(99)) is None
    for limit in (0, 1001):
        with pytest.raises(errors.InvalidInput) as invalid:
            client.call("paged", "list_allocations", limit=limit)
        assert invalid.value.kwargs["field"] == "limit"


@pytest.mark.behaviour("fetching")
def test_what_a_listener_hears_can_be_asked_for_again(client: Client, listener: stock.Listener) -> None:
    for number in range(1, MANY):
        client.call("asked", "begin_resource_claim", instance=small(number, display_name='"wëb\\'))
    heard = listener.wait_for("asked", "n1", MANY)

    def page(after: int, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = client.call("asked", "get_notifications", node="n1", after_sequence=after, **arguments)
        assert (answer["first"], answer["last"]) == (1, MANY)
        assert answer["ledger_id"] == heard[0].payload["ledger_id"]
        return answer

    fetched = [one for after in range(0, MANY + 3, 3) for one in page(after, limit=3)["notifications"]]
    assert [(one["message_id"], one["event_type"], one["priority"].lower(), one["payload"]) for one in fetched] == [
        (one.message_id, one.event_type, one.priority, one.payload) for one in heard
    ]
    assert [one["timestamp"] for one in fetched] == [one.metadata["timestamp"] for one in heard]
    assert page(0)["notifications"] == fetched
    assert page(MANY)["notifications"] == page(2**53)["notifications"] == []
    for limit in (0, 501):
        with pytest.raises(errors.InvalidInput) as invalid:
            client.call("asked", "get_notifications", node="n1", limit=limit)
        assert invalid.value.kwargs["field"] == "limit"
    with pytest.raises(errors.NodeNotFound):
        client.call("asked", "get_notifications", node="n2")
    assert len(listener.heard("asked", "n1")) == len(heard)


@pytest.mark.behaviour("starting-late")
def test_who_starts_late_gets_what_an_event_would_say_now(client: Client, listener: stock.Listener) -> None:
    for number in range(1, MANY):
        client.call("late", "begin_resource_claim", instance=small(number, node="n1", display_name='"wëb\\'))
    client.call("late", "begin_move_claim", instance=small(1, node="n2"), move={"id": "late-1", "kind": "resize"})
    heard = listener.wait_for("late", "n1", MANY)

    def page(node: str = "n1", **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = client.call("late", "get_instances", node=node, **arguments)
        return answer

    whole = page()
    told = {one.payload["instance_id"]: one.payload for one in heard if "instance_id" in one.payload}
    assert [entry["instance_id"] for entry in whole["instances"]] == [uuid(number) for number in range(1, MANY)]
    for entry in whole["instances"]:
        event = told[entry["instance_id"]]
        assert entry.keys() == event.keys() | {"since", "period_resource_seconds"}
        moving = ("occurred_at", "sequence", "generation")
        assert {name: entry[name] for name in event if name not in moving} == {
            name: event[name] for name in event if name not in moving
        }
        assert entry["occurred_at"] >= event["occurred_at"] == entry["since"]
        second = datetime.fromisoformat(entry["occurred_at"]).replace(microsecond=0)
        seconds = (second - datetime.fromisoformat(entry["since"]).replace(microsecond=0)).total_seconds()
        assert entry["period_resource_seconds"] == {name: amount * seconds for name, amount in entry["charged"].items()}
    assert (whole["ledger_id"], whole["sequence"], whole["next"]) == (heard[0].payload["ledger_id"], MANY, None)
    assert {entry["sequence"] for entry in whole["instances"]} == {MANY}
    first = page(limit=4)
    second_page = page(limit=4, after=first["next"].upper())
    assert [entry["instance_id"] for entry in (*first["instances"], *second_page["instances"])] == list(told)
    assert (first["next"], second_page["next"]) == (uuid(4), None)
    assert page("n2")["instances"] == []  # it is incoming there
    for field, wrong in (("limit", 0), ("limit", 501), ("after", "")):
        with pytest.raises(errors.InvalidInput) as invalid:
            page(**{field: wrong})
        assert invalid.value.kwargs["field"] == field
    with pytest.raises(errors.NodeNotFound):
        page("n3")


def test_an_operator_s_release_says_who_and_why(client: Client, listener: stock.Listener) -> None:
    claim = client.call("released", "begin_resource_claim", instance=small(1))
    with pytest.raises(errors.InvalidInput) as invalid:
        client.call("released", "release_allocation", instance_uuid=uuid(1), reason="")
    assert invalid.value.kwargs["field"] == "reason"

    entry = client.call("released", "release_allocation", instance_uuid=uuid(1), reason="its host burnt down")

    assert (entry["instance_uuid"], entry["claim_id"]) == (uuid(1), claim["claim_id"])
    told = last(client, listener, "released")
    assert told.event_type == "tracker.usage.released"
    said = {"instance_id": uuid(1), "released_by": CONTEXT["user_id"], "reason": "its host burnt down"}
    assert told.payload.items() >= said.items()
    assert told.payload["charged"] == {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}
    assert client.call("released", "get_node")["running_vms"] == 0
    assert client.call("released", "finish_resource_claim", claim_id=claim["claim_id"]) is None
    assert client.call("released", "release_allocation", instance_uuid=uuid(1), reason="again") is None


def test_what_runs_is_compared_with_what_is_charged_and_not_repaired(client: Client, listener: stock.Listener) -> None:
    for number in (1, 2, 3):
        claim = client.call("compared", "begin_resource_claim", instance=small(number))
        if number < 3:
            client.call("compared", "finish_resource_claim", claim_id=claim["claim_id"])
    before = client.call("compared", "list_allocations")["allocations"]

    found = client.call("compared", "report_instances", node="n1", uuids=[uuid(2), uuid(9).upper()])

    expected = {"charged_not_running": [uuid(1)], "running_not_charged": [uuid(9)], "building": [uuid(3)]}
    assert found == expected
    told = last(client, listener, "compared")
    assert told.event_type == "tracker.node.drift"
    assert told.payload.items() >= {"kind": "instances", **expected}.items()
    assert client.call("compared", "list_allocations")["allocations"] == before

    sequence = client.call("compared", "get_node")["sequence"]
    right = client.call("compared", "report_instances", node="n1", uuids=[uuid(1), uuid(2)])
    assert right == {"charged_not_running": [], "running_not_charged": [], "building": [uuid(3)]}
    assert client.call("compared", "get_node")["sequence"] == sequence


def test_twenty_custom_classes_are_claimed_limited_shown_and_told(client: Client, listener: stock.Listener) -> None:
    asked = {f"CUSTOM_{number}": 3 for number in range(20)}
    limits = dict.fromkeys(asked, 4.9)
    claim = client.call("classes", "begin_resource_claim", instance=small(1, resources=asked), limits=limits)
    assert claim["resources"] == {"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1, **asked}

    again = small(2, resources={**asked, "CUSTOM_7": 1, "CUSTOM_8": 5, "VGPU": 1})
    with pytest.raises(errors.ComputeResourcesUnavailable) as refused:
        client.call("classes", "begin_resource_claim", instance=again, limits=limits)
    lacks = {lack["resource"]: lack for lack in refused.value.kwargs["shortfalls"]}
    assert lacks.keys() == {*asked, "VGPU"} - {"CUSTOM_7"}
    assert lacks["CUSTOM_0"] == {"resource": "CUSTOM_0", "requested": 3, "used": 3, "limit": 4}
    assert lacks["CUSTOM_8"]["reason"] == "must be at most 4 (max_unit)"
    assert lacks["VGPU"] == {"resource": "VGPU", "requested": 1, "used": 0, "limit": 0}
    told = last(client, listener, "classes")
    assert (told.event_type, told.payload["shortfalls"]) == (
        "tracker.claim.rejected",
        refused.value.kwargs["shortfalls"],
    )

    view = client.call("classes", "get_node")["resources"]
    assert {name: view[name]["used"] for name in asked} == asked
    usage = client.call("classes", "get_usage")
    assert usage[instance_dict()["project_id"]]["resources"] == asked

    update = {"uuid": uuid(1), "resources": {"CUSTOM_19": 1}}
    assert client.call("classes", "update_usage", instance=update) == {"tracked": True, "changed": True}
    told = last(client, listener, "classes")
    assert told.payload["charged"] == {"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1, "CUSTOM_19": 1}


def test_instances_that_run_already_are_adopted(client: Client, listener: stock.Listener) -> None:
    running = [small(number, vm_state="active", resources={"VGPU": 3}) for number in (1, 2)]
    answer = client.call("adopted", "adopt", instances=[*running, small(3, vm_state="deleted"), {"uuid": "vm-4"}])
    assert (answer["adopted"], answer["already"]) == ([uuid(1), uuid(2)], [])
    assert [(one["instance_uuid"], one["code"]) for one in answer["refused"]] == [
        (uuid(3), "invalid_input"),
        ("vm-4", "invalid_input"),
    ]
    told = last(client, listener, "adopted")
    assert (told.event_type, told.payload["claim_state"]) == ("tracker.usage.adopted", "finished")
    assert told.payload["over_capacity"] == [{"resource": "VGPU", "used": 7, "capacity": 4}]
    assert client.call("adopted", "adopt", instances=running)["already"] == [uuid(1), uuid(2)]
    assert client.call("adopted", "list_claims") == []
    with pytest.raises(errors.InvalidInput) as invalid:
        client.call("adopted", "adopt", instances=[{"uuid": uuid(number)} for number in range(1001)])
    assert invalid.value.kwargs["field"] == "instances"
