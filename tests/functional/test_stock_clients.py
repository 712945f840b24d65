# SPDX-License-Identifier: Apache-2.0
"""Stock clients get the documented interfaces under every configuration of the cloud's queues."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.servers import RabbitMQServer
from tests.support import raw, story
from tests.support.builders import RESERVED_MEMORY_MB, instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.deployments import CLIENT_OPTIONS, CLOUDS, COPIES, HOSTS, Deployment, deployed
from tests.support.load import once_in_order
from tests.support.stock import CONTEXT, Client, oslo_messaging
from tests.support.worker_process import NODE
from tests.wire.golden import load as load_golden
from tracker_worker import errors

UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SMALL = sized(vcpus=1, memory_mb=1024, disk_gb=10)
MISPLACED = {"uuid": "e3", "node": "no"}
RESOURCES = {"VCPU": 1, "MEMORY_MB": 1024, "DISK_GB": 10}


@pytest.fixture(scope="module", params=CLOUDS, ids="-".join)
def deployment(
    request: pytest.FixtureRequest, rabbitmq: RabbitMQServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    queue_type, options = request.param
    rabbitmq.ensure_running()
    directory = tmp_path_factory.mktemp("cloud")
    url = rabbitmq.virtual_host_url()
    with deployed(directory, url, queue_type=queue_type, rabbit=CLIENT_OPTIONS[options]) as running:
        yield running


@pytest.fixture
def client(deployment: Deployment) -> Client:
    return deployment.client


def small(uuid: str, **fields: Any) -> dict[str, Any]:
    return instance_dict(**{"uuid": uuid, **SMALL, **fields})


def lifetime(claim: dict[str, Any]) -> timedelta:
    return datetime.fromisoformat(claim["expires_at"]) - datetime.fromisoformat(claim["begun_at"])


def test_a_claim_has_the_documented_shape(client: Client) -> None:
    generation = client.call("pair", "get_node", node="pair-1")["generation"]
    claim = client.call(
        "pair", "begin_resource_claim", instance=small("shape", node="pair-1"), limits={"vcpu": 99.5}, timeout=1.5
    )

    assert UUID(claim["claim_id"]).version == 7
    assert UTC_TIME.fullmatch(claim["begun_at"])
    assert UTC_TIME.fullmatch(claim["expires_at"])
    assert lifetime(claim) == timedelta(seconds=1.5)
    assert claim == {
        "claim_id": claim["claim_id"],
        "instance_uuid": "shape",
        "host": "pair",
        "node": "pair-1",
        "resources": RESOURCES,
        "state": "begun",
        "begun_at": claim["begun_at"],
        "expires_at": claim["expires_at"],
        "generation": generation + 1,
        "limit_source": "caller",
        "on_expiry": None,
    }
    assert client.call("pair", "abort_resource_claim", claim_id=claim["claim_id"]) == {
        **claim,
        "state": "aborted",
        "generation": generation + 2,
    }


def test_every_method_answers_a_call_on_a_host(client: Client) -> None:
    assert client.call("alone", "oslo_rpc_server_ping") == "pong"
    first = client.call("alone", "begin_resource_claim", instance=small("a1"))
    second = client.call("alone", "begin_resource_claim", instance=small("a2"), limits=None, timeout=0, host="alone")
    assert (first["state"], first["limit_source"], lifetime(first)) == ("begun", "unlimited", timedelta(seconds=600))
    assert second["generation"] == first["generation"] + 1
    # The same request again returns the same claim and changes nothing.
    assert client.call("alone", "begin_resource_claim", instance=small("a1")) == {
        **first,
        "generation": second["generation"],
    }
    listed = client.call("alone", "list_claims")
    assert [claim["claim_id"] for claim in listed] == [first["claim_id"], second["claim_id"]]
    assert [claim["instance_uuid"] for claim in listed] == ["a1", "a2"]
    assert client.call("alone", "list_claims", node="alone-1") == listed

    # The uuid of the instance stands for its only claim that has not ended.
    finished = client.call("alone", "finish_resource_claim", claim_id="a1")
    aborted = client.call("alone", "abort_resource_claim", claim_id=second["claim_id"])
    assert (finished["claim_id"], finished["state"]) == (first["claim_id"], "finished")
    assert (aborted["claim_id"], aborted["state"]) == (second["claim_id"], "aborted")
    for method in ("finish_resource_claim", "abort_resource_claim"):
        for claim_id in (first["claim_id"], second["claim_id"], "a1", "a2", "never"):
            assert client.call("alone", method, claim_id=claim_id) is None
    assert client.call("alone", "list_claims") == []

    active = {"uuid": "a1", "vm_state": "active", "task_state": None}
    assert client.call("alone", "update_usage", instance=active) == {"tracked": True, "changed": True}
    assert client.call("alone", "update_usage", instance=active) == {"tracked": True, "changed": False}
    assert client.call("alone", "update_usage", instance={"uuid": "a2"}) == {"tracked": False, "changed": False}

    project = instance_dict()["project_id"]
    assert client.call("alone", "get_usage") == {project: {"instances": 1, **RESOURCES}}
    assert client.call("alone", "get_usage", project_id=project) == client.call("alone", "get_usage")
    assert client.call("alone", "get_usage", project_id="another") == {}

    view = client.call("alone", "get_node")
    assert view == client.call("alone", "get_node", node="alone-1")
    assert [view] == client.call("alone", "list_nodes")
    assert [view] == client.call("alone", "update_available_resource")
    assert [view] == client.call("alone", "update_available_resource", node="alone-1")
    check_view(view)


def check_view(view: dict[str, Any]) -> None:
    """Check the view of ``alone`` with one instance, at the end of test_every_method_answers_a_call_on_a_host."""
    expected = {
        "host": "alone",
        "node": "alone-1",
        # inventory, two begun, finished, aborted, updated
        "generation": 6,
        "sequence": 6,
        "disabled": False,
        "state": "open",
        "state_reason": "",
        **NODE,
        "vcpus_used": 1,
        "memory_mb_used": RESERVED_MEMORY_MB + 1024,
        "free_ram_mb": NODE["memory_mb"] - RESERVED_MEMORY_MB - 1024,
        "local_gb_used": 10,
        "free_disk_gb": NODE["local_gb"] - 10,
        "running_vms": 1,
        "current_workload": 0,
        "hypervisor_type": "static",
        "hypervisor_version": 1,
        "hypervisor_hostname": "alone-1",
        "disk_available_least": NODE["local_gb"],
        "cpu_info": "",
    }
    assert {key: view[key] for key in expected} == expected
    assert view["stats"].items() >= {"num_instances": 1, "num_vcpus_used": 1, "num_vm_active": 1}.items()
    assert UUID(view["ledger_id"]).version == 7
    assert UTC_TIME.fullmatch(view["state_since"])


def test_the_shared_topic_reaches_every_host_by_name(client: Client) -> None:
    assert client.call(None, "oslo_rpc_server_ping") == "pong"
    assert {view["host"] for view in client.call(None, "list_nodes")} == set(HOSTS)
    claim = client.call(None, "begin_resource_claim", instance=small("s1", project_id="ps"), host="shared")
    assert (claim["host"], claim["node"]) == ("shared", "shared-1")
    assert client.call(None, "get_usage")["ps"] == {"instances": 1, **RESOURCES}
    assert client.call(None, "get_usage", host="shared") == client.call("shared", "get_usage")
    assert client.call(None, "get_usage", host="pair", project_id="ps") == {}
    assert client.call(None, "list_claims", host="shared") == [claim]
    assert client.call(None, "finish_resource_claim", claim_id="s1", host="shared")["state"] == "finished"
    assert client.call(None, "abort_resource_claim", claim_id="s1", host="shared") is None
    changed = client.call(None, "update_usage", instance={"uuid": "s1", "vm_state": "deleted"}, host="shared")
    assert changed == {"tracked": True, "changed": True}
    view = client.call(None, "get_node", host="shared")
    assert view["running_vms"] == 0
    assert client.call(None, "update_available_resource", host="shared") == [view]
    assert client.call(None, "list_nodes", host="shared") == [view]


def test_casts_are_executed_in_the_order_of_sending(client: Client) -> None:
    client.cast("casts", "begin_resource_claim", instance=small("c1"))
    client.cast("casts", "finish_resource_claim", claim_id="c1")
    client.cast("casts", "begin_resource_claim", instance=small("c2"))
    client.cast("casts", "abort_resource_claim", claim_id="c2")
    client.cast("casts", "update_usage", instance={"uuid": "c1", "vm_state": "active", "project_id": "pc"})
    client.cast("casts", "update_available_resource")
    # Casts of methods that only read: the reply is dropped and nothing is parked.
    for method in ("get_node", "list_nodes", "list_claims", "get_usage", "oslo_rpc_server_ping"):
        client.cast("casts", method)
    client.cast("casts", "begin_resource_claim", instance=small("c3"))

    # This call is after all casts in the same queue.
    claims = client.call("casts", "list_claims")

    assert [claim["instance_uuid"] for claim in claims] == ["c3"]
    assert client.call("casts", "get_usage")["pc"] == {"instances": 1, **RESOURCES}


def test_a_fanout_audit_reaches_every_host_and_expires_claims(client: Client) -> None:
    before = client.call("fanout", "get_node")["running_vms"]
    client.call("fanout", "begin_resource_claim", instance=small("f1"), timeout=0.001)

    client.fanout("update_available_resource")

    wait_until(lambda: client.call("fanout", "list_claims") == [], "the claim expires")
    assert client.call("fanout", "get_node")["running_vms"] == before + 1


def test_a_fanout_that_names_a_host_is_executed_by_the_worker_of_that_host(client: Client) -> None:
    client.fanout("begin_resource_claim", instance=small("f2"), host="fanout", timeout=600)
    wait_until(lambda: client.call("fanout", "list_claims"), "the claim begins")
    client.fanout("finish_resource_claim", claim_id="f2", host="fanout")
    client.fanout("update_usage", instance={"uuid": "f2", "project_id": "pf"}, host="fanout")
    wait_until(lambda: "pf" in client.call("fanout", "get_usage"), "the update is done")
    client.fanout("begin_resource_claim", instance=small("f3"), host="fanout")
    client.fanout("abort_resource_claim", claim_id="f3", host="fanout")
    client.fanout("update_available_resource", host="fanout", node="fanout-1")
    client.fanout("update_usage", instance={"uuid": "f2", "project_id": "pf-2"}, host="fanout")
    wait_until(lambda: "pf-2" in client.call("fanout", "get_usage"), "the last update is done")
    assert client.call("fanout", "list_claims") == []


def test_a_refused_claim_names_every_shortfall(client: Client) -> None:
    asked = instance_dict(uuid="e1", node="errors-1", **sized(vcpus=3, memory_mb=2048, disk_gb=50))
    limits = {"vcpu": 2.9, "memory_mb": 2559.5, "disk_gb": 49}

    with pytest.raises(errors.ComputeResourcesUnavailable) as caught:
        client.call("errors", "begin_resource_claim", instance=asked, limits=limits)

    assert caught.value.code == "insufficient_resources"
    assert caught.value.kwargs["shortfalls"] == [
        {"resource": "VCPU", "requested": 3, "used": 0, "limit": 2},
        {"resource": "MEMORY_MB", "requested": 2048, "used": RESERVED_MEMORY_MB, "limit": 2559},
        {"resource": "DISK_GB", "requested": 50, "used": 0, "limit": 49},
    ]


@pytest.mark.parametrize("other", [{"vcpus": 2}, {"node": "errors-2"}], ids=["another vector", "another node"])
def test_another_claim_of_the_same_instance_is_a_conflict(client: Client, other: dict[str, Any]) -> None:
    claimed = small("e2", node="errors-1")
    client.call("errors", "begin_resource_claim", instance=claimed)

    with pytest.raises(errors.ClaimConflict) as caught:
        client.call("errors", "begin_resource_claim", instance={**claimed, **other})

    assert caught.value.code == "claim_conflict"
    assert caught.value.kwargs["instance_uuid"] == "e2"


@pytest.mark.parametrize(
    ("host", "method", "arguments", "error", "code", "facts"),
    [
        ("errors", "get_node", {}, errors.InvalidInput, "invalid_input", {"field": "node"}),
        ("errors", "update_usage", {"instance": MISPLACED}, errors.NodeNotFound, "node_not_found", {"node": "no"}),
        ("errors", "finish_resource_claim", {}, errors.InvalidInput, "invalid_input", {"field": "claim_id"}),
        ("errors", "get_node", {"node": "no"}, errors.NodeNotFound, "node_not_found", {"host": "errors", "node": "no"}),
        ("errors", "list_claims", {"node": "no"}, errors.NodeNotFound, "node_not_found", {"node": "no"}),
        ("errors", "update_available_resource", {"node": "no"}, errors.NodeNotFound, "node_not_found", {"node": "no"}),
        (None, "get_node", {"host": "no"}, errors.HostNotServed, "host_not_served", {"host": "no"}),
        (None, "get_node", {}, errors.InvalidInput, "invalid_input", {"field": "host"}),
    ],
)  # fmt: skip
def test_an_error_arrives_with_its_class_code_and_facts(
    client: Client,
    host: str | None,
    method: str,
    arguments: dict[str, Any],
    error: type[errors.TrackerError],
    code: str,
    facts: dict[str, Any],
) -> None:
    with pytest.raises(error) as caught:
        client.call(host, method, **arguments)

    assert caught.value.code == code
    assert caught.value.kwargs.items() >= facts.items()
    assert str(caught.value).strip()


def test_an_instance_is_found_on_its_host_whether_its_node_is_named_or_not(client: Client) -> None:
    client.call("errors", "begin_resource_claim", instance=small("e4", node="errors-2"))

    with pytest.raises(errors.InstanceElsewhere) as caught:
        client.call("errors", "update_usage", instance={"uuid": "e4", "node": "errors-1", "vm_state": "active"})

    assert caught.value.code == "instance_elsewhere"
    assert caught.value.kwargs == {"instance_uuid": "e4", "host": "errors", "node": "errors-2"}
    changed = client.call("errors", "update_usage", instance={"uuid": "e4", "vm_state": "active"})
    assert changed == {"tracked": True, "changed": True}
    untracked = client.call("errors", "update_usage", instance={"uuid": "e5", "vm_state": "active"})
    assert untracked == {"tracked": False, "changed": False}


def test_an_unknown_method_or_version_gets_the_error_of_a_stock_server(client: Client) -> None:
    dispatcher = oslo_messaging.rpc.dispatcher
    with pytest.raises(dispatcher.NoSuchMethod, match="destroy"):
        client.call("errors", "destroy")
    for options in ({"version": "1.2"}, {"version": "2.0"}, {"namespace": "baseapi"}):
        with pytest.raises(dispatcher.UnsupportedVersion):
            client.prepare("errors", **options).call(CONTEXT, "list_nodes")
    for version in ("1.0", "1.1"):
        assert len(client.prepare("errors", version=version).call(CONTEXT, "list_nodes")) == 2


def test_a_stock_listener_gets_every_notification_once_and_in_order(deployment: Deployment) -> None:
    story.play(deployment.client)
    view = deployment.client.call(story.HOST, "get_node")

    heard = once_in_order(deployment.listener.wait_for(story.HOST, story.NODE, view["sequence"]))

    assert [(one.event_type, one.priority) for one in heard] == [told[:2] for told in story.EXPECTED_NOTIFICATIONS]
    assert len(deployment.listener.heard(story.HOST)) == len(story.EXPECTED_NOTIFICATIONS)
    for sequence, (one, (event_type, _, facts)) in enumerate(zip(heard, story.EXPECTED_NOTIFICATIONS, strict=True), 1):
        story.check_payload(event_type, one.payload)
        assert one.payload.items() >= {"host": story.HOST, "node": story.NODE, "sequence": sequence, **facts}.items()
        assert one.publisher_id == f"tracker.{story.HOST}"
        assert UUID(one.message_id).version == 7
        assert set(one.metadata) == {"message_id", "timestamp"}
    generations = [one.payload["generation"] for one in heard]
    assert generations == sorted(generations)
    assert generations[-1] == view["generation"]
    first = heard[1].payload
    described = instance_dict()
    assert (first["tenant_id"], first["user_id"]) == (described["project_id"], described["user_id"])
    for name in ("display_name", "instance_type", "instance_flavor_id", "image_meta", "metadata", "created_at"):
        assert first[name] == described[name]


def test_a_notification_has_the_wire_format_of_a_stock_notifier(deployment: Deployment, client: Client) -> None:
    # The first notification of each queue: an event of `warn_events`, and one of all others.
    with pytest.raises(errors.ComputeResourcesUnavailable):
        client.call("errors", "begin_resource_claim", instance=small("wire", node="errors-1"), limits={"vcpu": 0})
    golden = {"warn": load_golden("notification_warn"), "info": load_golden("notification_info")}
    for priority, like in golden.items():
        message = deployment.raw_connection.take(f"{COPIES}.{priority}")
        body = raw.unpacked(message.body)
        stock_keys = {key for key in raw.unpacked(like.body) if not key.startswith("_context_")}
        assert set(body) == stock_keys
        assert body["priority"] == priority.upper()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", body["timestamp"])
        assert message.delivery_info["exchange"] == like.exchange
        assert message.delivery_info["routing_key"] == f"{COPIES}.{priority}"
        expected = {**like.properties, "content_type": like.content_type, "content_encoding": like.content_encoding}
        properties = dict(message.properties)
        headers = dict(properties.pop("application_headers", {}))
        headers.pop("x-delivery-count", None)  # set by the broker for a quorum queue
        assert (properties, headers) == (expected, {})
