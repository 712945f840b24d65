# SPDX-License-Identifier: Apache-2.0
"""A tracker before its first audit, and a tracker whose driver returns no inventory."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.builders import HOST, NODE, driver_resource_dict, instance_dict
from tests.support.tracker import CONTEXT, Clock, audited, driver, event_types, picture
from tracker_worker.errors import InvalidInput, NodeNotFound
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.library.tracker import ResourceTracker
from tracker_worker.store.memory import MemoryStore

NOTHING: dict[str, Any] = {
    "disabled": True,
    "compute_node": None,
    "claims": {},
    "tracked_instances": {},
    "stats": {"num_instances": 0, "num_vcpus_used": 0, "io_workload": 0},
}


class HostWithoutRecord(MemoryStore):
    """A store that never finds the record of a host, as if it had been removed."""

    def load_host(self, name: str) -> None:
        return None


@pytest.mark.behaviour("disabled-until-audited")
def test_a_tracker_is_disabled_until_its_first_audit() -> None:
    driven = driver()
    tracker = ResourceTracker(HOST, driven)
    assert (tracker.host, tracker.driver) == (HOST, driven)
    assert picture(tracker) == NOTHING
    assert driven.calls == []
    tracker.update_available_resource(CONTEXT)
    assert not tracker.disabled
    assert tracker.compute_node is not None
    assert driven.calls == [NODE]


@pytest.mark.behaviour("disabled-until-audited")
def test_an_audit_with_a_falsy_answer_disables_the_tracker_until_an_audit_gets_an_answer() -> None:
    driven = driver()
    tracker = audited(driven)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker)
    driven.nodes[NODE] = {}
    tracker.update_available_resource(CONTEXT)
    assert picture(tracker) == NOTHING
    driven.nodes[NODE] = driver_resource_dict()
    tracker.update_available_resource(CONTEXT)
    after = picture(tracker)
    assert after["claims"] == before["claims"]
    assert after["compute_node"]["memory_mb_used"] == before["compute_node"]["memory_mb_used"]


@pytest.mark.behaviour("disabled-until-audited")
@pytest.mark.parametrize("answer", [None, {}])
def test_a_first_audit_with_a_falsy_answer_leaves_the_tracker_disabled_and_creates_no_node(answer: Any) -> None:
    store = MemoryStore()
    tracker = audited(FakeDriver(HOST, nodes={NODE: answer}), store=store)
    assert picture(tracker) == NOTHING
    loaded = store.load_host(HOST)
    assert loaded is not None
    assert loaded.nodes == {}


@pytest.mark.behaviour("start-order")
def test_the_service_record_exists_before_the_first_audit() -> None:
    store = MemoryStore()
    ResourceTracker(HOST, driver(), store=store)
    assert store.host_names() == [HOST]


@pytest.mark.behaviour("start-order")
def test_a_first_audit_that_fails_raises_the_cause_and_leaves_the_tracker_disabled() -> None:
    tracker = ResourceTracker(HOST, FakeDriver(HOST, nodes={NODE: OSError("libvirt is away")}))
    with pytest.raises(OSError, match="libvirt is away"):
        tracker.update_available_resource(CONTEXT)
    assert picture(tracker) == NOTHING


@pytest.mark.behaviour("disabled-does-not-block")
def test_begin_on_a_disabled_tracker_sets_the_host_charges_nothing_and_returns_none() -> None:
    store = MemoryStore()
    tracker = ResourceTracker(HOST, driver(), store=store)
    instance = instance_dict(1, host=None)
    assert tracker.begin_resource_claim(CONTEXT, instance, {"memory_mb": 0}) is None
    assert (instance["host"], instance["launched_on"]) == (HOST, HOST)
    tracker.update_available_resource(CONTEXT)
    assert tracker.tracked_instances == {}
    assert event_types(store) == ["tracker.node.updated"]


@pytest.mark.behaviour("disabled-does-not-block")
def test_a_disabled_tracker_sets_the_node_of_an_instance_only_if_it_knows_its_own() -> None:
    unknown, known = instance_dict(1, node="node-9"), instance_dict(2)
    ResourceTracker(HOST, driver()).begin_resource_claim(CONTEXT, unknown)
    ResourceTracker(HOST, driver(), node=NODE).begin_resource_claim(CONTEXT, known)
    assert (unknown["node"], known["node"]) == ("node-9", NODE)


@pytest.mark.behaviour("disabled-does-not-block")
def test_the_context_manager_of_a_disabled_tracker_runs_its_body() -> None:
    tracker = ResourceTracker(HOST, driver())
    ran = []
    with tracker.resource_claim(CONTEXT, instance_dict(1), {"memory_mb": 0}) as claim:
        ran.append(claim)
    with tracker.resource_claim(CONTEXT, memory_mb=1) as claim:
        ran.append(claim)
    assert ran == [None, None]


@pytest.mark.behaviour("disabled-does-not-block")
def test_an_exception_propagates_from_the_context_manager_of_a_disabled_tracker() -> None:
    tracker = ResourceTracker(HOST, driver())
    with pytest.raises(ZeroDivisionError), tracker.resource_claim(CONTEXT, instance_dict(1)):
        raise ZeroDivisionError


@pytest.mark.behaviour("disabled-does-not-block")
def test_finish_abort_and_update_do_nothing_on_a_disabled_tracker() -> None:
    driven = driver()
    clock = Clock()
    store = MemoryStore()
    tracker = audited(driven, store=store, clock=clock)
    instance = instance_dict(1)
    claim = tracker.begin_resource_claim(CONTEXT, instance)
    begun = picture(tracker)
    driven.nodes[NODE] = None
    tracker.update_available_resource(CONTEXT)
    events = event_types(store)
    tracker.finish_resource_claim(claim)
    tracker.abort_resource_claim(CONTEXT, claim, instance)
    tracker.abort_resource_claim(CONTEXT, None)
    tracker.update_usage(CONTEXT, instance_dict(1, vm_state="deleted"))
    assert instance["host"] == HOST
    assert event_types(store) == events
    driven.nodes[NODE] = driver_resource_dict()
    tracker.update_available_resource(CONTEXT)
    assert tracker.claims == begun["claims"]
    assert tracker.tracked_instances == begun["tracked_instances"]


@pytest.mark.behaviour("disabled-does-not-block")
def test_an_invalid_instance_is_refused_by_a_disabled_tracker() -> None:
    instance = instance_dict(1, vcpus=-1)
    with pytest.raises(InvalidInput):
        ResourceTracker(HOST, driver()).begin_resource_claim(CONTEXT, instance)
    assert "host" not in instance


@pytest.mark.behaviour("disabled-does-not-block")
def test_a_node_that_the_driver_does_not_list_is_not_found_rather_than_disabled() -> None:
    tracker = ResourceTracker(HOST, driver("node-1", "node-2"), node="node-3")
    with pytest.raises(NodeNotFound) as raised:
        tracker.update_available_resource(CONTEXT)
    assert raised.value.kwargs == {"host": HOST, "node": "node-3"}


@pytest.mark.behaviour("disabled-does-not-block")
def test_a_node_that_the_driver_no_longer_lists_is_not_found_and_keeps_its_ledger() -> None:
    driven = driver("node-1", "node-2")
    tracker = audited(driven, node=NODE)
    before = picture(tracker)
    del driven.nodes[NODE]
    with pytest.raises(NodeNotFound):
        tracker.update_available_resource(CONTEXT)
    assert picture(tracker) == before


@pytest.mark.behaviour("disabled-until-audited")
def test_a_tracker_that_names_no_node_needs_a_driver_with_exactly_one() -> None:
    with pytest.raises(NodeNotFound):
        audited(FakeDriver(HOST, nodes={}))
    with pytest.raises(InvalidInput) as raised:
        audited(driver("node-1", "node-2"))
    assert raised.value.kwargs["field"] == "node"


@pytest.mark.behaviour("audit")
def test_a_host_without_a_service_record_stays_disabled_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = ResourceTracker(HOST, driver(), store=HostWithoutRecord())
    with caplog.at_level(logging.WARNING):
        tracker.update_available_resource(CONTEXT)
    assert [(record.levelname, HOST in record.getMessage()) for record in caplog.records] == [("WARNING", True)]
    assert picture(tracker) == NOTHING
