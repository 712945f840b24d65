# SPDX-License-Identifier: Apache-2.0
"""Several trackers of one node or of several nodes, on one store."""

from __future__ import annotations

import pytest

from tests.support.builders import HOST, driver_resource_dict, instance_dict, uuid
from tests.support.tracker import CONTEXT, audited, conf, driver, event_types, picture, used
from tracker_worker.errors import ClaimConflict
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.library.tracker import ResourceTracker
from tracker_worker.store.base import Commit, Conflict, Store
from tracker_worker.store.memory import MemoryStore


@pytest.fixture
def first(store: Store) -> ResourceTracker:
    return audited(driver("node-1", "node-2"), node="node-1", store=store)


@pytest.fixture
def second(first: ResourceTracker, store: Store) -> ResourceTracker:
    return audited(first.driver, node="node-2", store=store)  # type: ignore[arg-type]


@pytest.mark.behaviour("disabled-until-audited")
def test_each_node_has_its_own_view_claims_instances_and_counters(
    first: ResourceTracker, second: ResourceTracker
) -> None:
    mine, other = instance_dict(1), instance_dict(2, vcpus=7)
    first.begin_resource_claim(CONTEXT, mine)
    second.begin_resource_claim(CONTEXT, other)
    assert (mine["node"], other["node"]) == ("node-1", "node-2")
    assert (list(first.claims), list(second.claims)) == ([uuid(1)], [uuid(2)])
    assert (list(first.tracked_instances), list(second.tracked_instances)) == ([uuid(1)], [uuid(2)])
    assert (used(first), used(second)) == ((2, 4608, 50), (7, 4608, 50))
    assert (first.stats.num_vcpus_used, second.stats.num_vcpus_used) == (2, 7)


@pytest.mark.behaviour("disabled-until-audited")
def test_disabling_one_node_leaves_the_other_nodes_enabled(first: ResourceTracker, second: ResourceTracker) -> None:
    driven = first.driver
    assert isinstance(driven, FakeDriver)
    driven.nodes["node-2"] = None
    for tracker in (first, second):
        tracker.update_available_resource(CONTEXT)
    assert (first.disabled, second.disabled) == (False, True)


@pytest.mark.behaviour("repeated-claim")
def test_an_instance_is_charged_to_only_one_node_of_a_host(first: ResourceTracker, second: ResourceTracker) -> None:
    first.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(first), picture(second)
    instance = instance_dict(1)
    with pytest.raises(ClaimConflict) as raised:
        second.begin_resource_claim(CONTEXT, instance)
    assert (raised.value.kwargs["instance_uuid"], raised.value.kwargs["node"]) == (uuid(1), "node-1")
    assert instance == instance_dict(1)
    assert (picture(first), picture(second)) == before


@pytest.mark.behaviour("repeated-claim")
def test_an_instance_that_one_node_has_released_may_be_claimed_on_another_node_immediately(
    first: ResourceTracker, second: ResourceTracker
) -> None:
    first.begin_resource_claim(CONTEXT, instance_dict(1))
    with pytest.raises(ClaimConflict):
        second.begin_resource_claim(CONTEXT, instance_dict(1))
    first.abort_resource_claim(CONTEXT, uuid(1))
    assert second.begin_resource_claim(CONTEXT, instance_dict(1)) is not None


@pytest.mark.behaviour("disabled-until-audited")
def test_two_hosts_with_nodes_of_the_same_name_share_no_ledger(store: Store) -> None:
    trackers = []
    for host in ("host-1", "host-2"):
        tracker = ResourceTracker(
            host, FakeDriver(host, nodes={"node-1": driver_resource_dict()}), store=store, conf=conf()
        )
        tracker.update_available_resource(CONTEXT)
        tracker.begin_resource_claim(CONTEXT, instance_dict(1))
        trackers.append(tracker)
    trackers[0].abort_resource_claim(CONTEXT, uuid(1))
    assert [list(tracker.claims) for tracker in trackers] == [[], [uuid(1)]]


@pytest.mark.behaviour("exclusion-per-node")
@pytest.mark.parametrize("end", ["finish", "abort", "delete"])
def test_a_claim_is_unknown_to_the_tracker_of_another_node(first: ResourceTracker, store: Store, end: str) -> None:
    first.begin_resource_claim(CONTEXT, instance_dict(1))
    # This tracker has read the host after the claim.
    second = audited(driver("node-1", "node-2"), node="node-2", store=store)
    before = picture(first), picture(second)
    if end == "finish":
        second.finish_resource_claim(uuid(1))
    elif end == "abort":
        second.abort_resource_claim(CONTEXT, uuid(1))
    else:
        second.update_usage(CONTEXT, instance_dict(1, vm_state="deleted"))
    assert (picture(first), picture(second)) == before


@pytest.mark.behaviour("exclusion-per-node")
def test_a_tracker_immediately_sees_the_commits_of_another_tracker_of_its_node(store: Store) -> None:
    one, other = audited(store=store), audited(store=store)
    one.begin_resource_claim(CONTEXT, instance_dict(1))
    assert picture(other) == picture(one)
    other.finish_resource_claim(uuid(1))
    assert picture(other) == picture(one)
    assert one.claims == {}
    one.begin_resource_claim(CONTEXT, instance_dict(2))
    assert other.begin_resource_claim(CONTEXT, instance_dict(3), {"vcpu": 5}) is None
    other.update_usage(CONTEXT, instance_dict(1, vm_state="deleted"))
    assert one.begin_resource_claim(CONTEXT, instance_dict(3), {"vcpu": 4}) is not None


@pytest.mark.behaviour("exclusion-per-node")
def test_a_node_disabled_or_enabled_by_one_tracker_is_so_for_all_its_trackers(store: Store) -> None:
    driven = driver()
    one, other = audited(driven, store=store), audited(driven, store=store)
    driven.nodes["node-1"] = None
    other.update_available_resource(CONTEXT)
    assert one.disabled
    instance = instance_dict(1)
    assert one.begin_resource_claim(CONTEXT, instance) is None
    assert instance["host"] == HOST
    driven.nodes["node-1"] = driver_resource_dict()
    other.update_available_resource(CONTEXT)
    assert one.begin_resource_claim(CONTEXT, instance) is not None


class InterferingStore(MemoryStore):
    """A store that lets another tracker audit between the decision and the commit of a tracker, or refuses every commit."""

    def __init__(self) -> None:
        super().__init__()
        self.interfering: list[ResourceTracker] = []
        self.busy = False

    def commit(self, commit: Commit) -> None:
        if self.interfering:
            self.interfering.pop().update_available_resource(CONTEXT)
        if self.busy:
            raise Conflict("always somebody else")
        super().commit(commit)


@pytest.mark.behaviour("disabled-does-not-block")
def test_a_node_that_is_disabled_while_a_claim_is_decided_blocks_no_build() -> None:
    store = InterferingStore()
    driven = driver()
    one, other = audited(driven, store=store), audited(driven, store=store)
    driven.nodes["node-1"] = None
    store.interfering = [other]
    instance = instance_dict(1)
    assert one.begin_resource_claim(CONTEXT, instance) is None
    assert (instance["host"], one.disabled) == (HOST, True)
    assert event_types(store) == ["tracker.node.updated", "tracker.node.updated", "tracker.claim.untracked"]


@pytest.mark.behaviour("exclusion-per-node")
def test_a_claim_whose_commit_always_conflicts_is_decided_under_lock() -> None:
    store = InterferingStore()
    tracker = audited(store=store)
    store.busy = True
    instance = instance_dict(1)
    assert tracker.begin_resource_claim(CONTEXT, instance) is not None
    assert instance["host"] == HOST
