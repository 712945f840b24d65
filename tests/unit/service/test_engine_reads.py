# SPDX-License-Identifier: Apache-2.0
"""Reads and commands without an effect are answered from the stored state, also by a worker that was a standby for long."""

from __future__ import annotations

import pytest

from tests.support.builders import HOST, begin, instance_dict, node_name, uuid
from tests.support.caller import Refused
from tests.support.engine import EngineHarness
from tests.support.store import Writer, settle
from tests.unit.service.conftest import MakeHarness
from tracker_worker.bus.base import SHARED

N1, N2 = node_name(1), node_name(2)


@pytest.fixture
def standby(harness: EngineHarness, make_harness: MakeHarness) -> EngineHarness:
    """A worker that has read everything before the first claim; its requests reach only this worker."""
    standby = make_harness(store=harness.store.inner, owner="worker-2").start(relaying=False)
    assert standby.caller.call("get_node").reply()["generation"] == 1
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    return standby


@pytest.mark.parametrize("method", ["get_node", "list_nodes", "list_claims", "get_usage"])
def test_a_standby_that_becomes_active_answers_from_the_store(
    harness: EngineHarness, standby: EngineHarness, method: str
) -> None:
    assert standby.caller.call(method).reply() == harness.caller.call(method).reply()


def test_a_command_without_an_effect_is_answered_from_the_stored_state(standby: EngineHarness) -> None:
    again = standby.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    assert (again["instance_uuid"], again["generation"]) == (uuid(1), 2)
    assert standby.caller.call("update_usage", instance={"uuid": uuid(1)}).reply() == {
        "tracked": True,
        "changed": False,
    }
    assert (
        standby.caller.call("begin_resource_claim", instance=instance_dict(1, vcpus=1)).reply().error == "ClaimConflict"
    )
    assert standby.caller.call("finish_resource_claim", claim_id=uuid(1)).reply()["generation"] == 3


def test_a_node_that_another_worker_has_added_is_seen(harness: EngineHarness, standby: EngineHarness) -> None:
    host = harness.ledger()
    harness.store.inner.create_node(host.id, "node-new")
    assert [view["node"] for view in standby.caller.call("list_nodes").reply()] == [N1, "node-new"]
    assert standby.caller.call("get_node").reply().error == "InvalidInput"
    assert standby.caller.call("get_node", node="node-new").reply()["state"] == "unknown"


def test_a_batch_checks_the_generations_of_all_its_hosts_in_one_call(make_harness: MakeHarness) -> None:
    harness = make_harness(hosts=["host-1", "host-2"], nodes=2).start()
    harness.caller.call("list_nodes", source=SHARED).reply()
    with harness.busy():
        calls = [
            harness.caller.call("list_nodes", source=SHARED),
            *(harness.caller.call("get_node", source=host, node=N2) for host in harness.hosts),
        ]
        harness.store.calls.clear()
    everything, first, second = (call.reply() for call in calls)
    assert [(view["host"], view["node"]) for view in everything] == [
        ("host-1", N1),
        ("host-1", N2),
        ("host-2", N1),
        ("host-2", N2),
    ]
    assert [first, second] == [everything[1], everything[3]]
    # The batch calls first; a later call belongs to the renewal of the lease.
    assert harness.store.calls[0] == "refreshed"
    assert "refreshed" not in harness.store.calls[1:2]


def test_a_read_sees_the_earlier_commands_of_its_batch(harness: EngineHarness) -> None:
    with harness.busy():
        before = harness.caller.call("get_node")
        harness.caller.cast("begin_resource_claim", instance=instance_dict(1))
        after = harness.caller.call("get_node")
        claims = harness.caller.call("list_claims")
    assert before.reply()["generation"] == 1
    view = after.reply()
    assert (view["generation"], view["sequence"], view["running_vms"]) == (2, 2, 1)
    assert [claim["instance_uuid"] for claim in claims.reply()] == [uuid(1)]


def test_usage_covers_all_hosts_on_the_shared_topic_and_one_host_on_its_topic(make_harness: MakeHarness) -> None:
    harness = make_harness(hosts=["host-1", "host-2"]).start()
    for number, host in enumerate(harness.hosts, start=1):
        described = instance_dict(number, project_id="p-1" if number == 1 else None, user_id=None)
        harness.caller.call("begin_resource_claim", source=host, instance=described).reply()
    one = {"instances": 1, "VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50}
    assert harness.caller.call("get_usage", source=SHARED).reply() == {"p-1": one, "": one}
    assert harness.caller.call("get_usage", source="host-1").reply() == {"p-1": one}
    assert harness.caller.call("get_usage", source=SHARED, host="host-2").reply() == {"": one}
    assert harness.caller.call("get_usage", source=SHARED, project_id="p-1").reply() == {"p-1": one}
    assert harness.caller.call("get_usage", source=SHARED, project_id="p-9").reply() == {}


def test_a_request_must_name_an_existing_node_if_the_host_has_several(make_harness: MakeHarness) -> None:
    harness = make_harness(nodes=2).start()
    ambiguous = harness.caller.call("get_node").reply()
    assert isinstance(ambiguous, Refused)
    assert (ambiguous.error, ambiguous.kwargs["field"]) == ("InvalidInput", "node")
    for method in ("get_node", "list_claims"):
        unknown = harness.caller.call(method, node="node-9").reply()
        assert unknown == Refused("NodeNotFound", {"host": HOST, "node": "node-9"})
    assert harness.caller.call("list_claims").reply() == []


def test_a_request_for_a_host_without_nodes_is_node_not_found(make_harness: MakeHarness) -> None:
    harness = make_harness(nodes=0).start()
    assert harness.caller.call("list_nodes").reply() == []
    assert harness.caller.call("get_node").reply().error == "NodeNotFound"
    assert harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply().error == "NodeNotFound"


def test_a_worker_with_a_stale_ledger_decides_on_the_stored_state(
    harness: EngineHarness, standby: EngineHarness
) -> None:
    Writer(harness.store.inner).put(begin(2, node=N1)).commit()
    limits = {"vcpu": 5}
    refused = standby.caller.call("begin_resource_claim", instance=instance_dict(3), limits=limits).reply()
    assert refused.kwargs["shortfalls"][0]["used"] == 4


def test_a_worker_lists_only_the_nodes_of_its_hosts(make_harness: MakeHarness) -> None:
    harness = make_harness(hosts=["host-1"]).start()
    settle(harness.store.inner, host="host-2")
    assert {view["host"] for view in harness.caller.call("list_nodes", source=SHARED).reply()} == {"host-1"}


def test_a_read_whose_answer_is_too_large_is_refused_and_the_next_request_is_not(make_harness: MakeHarness) -> None:
    harness = make_harness(nodes=2, max_answer_bytes=65536).start()
    with harness.busy():
        calls = [
            harness.caller.call("begin_resource_claim", instance=instance_dict(number, node=N1))
            for number in range(200)
        ]
        everything = harness.caller.call("list_claims")
        of_one = harness.caller.call("list_claims", node=N2)
    assert all(call.reply()["claim_id"] for call in calls)
    refused = everything.reply()
    assert isinstance(refused, Refused)
    assert refused.error == "AnswerTooLarge"
    assert (refused.kwargs["method"], refused.kwargs["limit"]) == ("list_claims", 65536)
    assert of_one.reply() == []


def test_an_audit_whose_answer_is_too_large_is_refused(make_harness: MakeHarness) -> None:
    harness = make_harness(max_answer_bytes=65536).start()
    with harness.busy():
        for number in range(300):
            project = f"{number:0250}"
            harness.caller.cast("begin_resource_claim", instance=instance_dict(number, project_id=project))
    refused = harness.caller.call("update_available_resource").reply()
    assert (refused.error, refused.kwargs["method"]) == ("AnswerTooLarge", "update_available_resource")
    assert harness.caller.call("get_node").reply().error == "AnswerTooLarge"
    assert harness.caller.call("oslo_rpc_server_ping").reply() == "pong"
