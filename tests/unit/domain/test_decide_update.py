# SPDX-License-Identifier: Apache-2.0
"""Decisions on updates of instances and on reports of inventory."""

from __future__ import annotations

import pytest

from tests.support.builders import (
    HOST,
    begin,
    happened,
    host_ledger,
    instance,
    instance_dict,
    inventory,
    planned,
    play,
    resources,
    sized,
    snapshot,
    update,
    uuid,
)
from tracker_worker.domain.commands import FinishClaim, ReportNode
from tracker_worker.domain.events import NodeUpdated, UsageDrift, UsageReleased, UsageUpdated
from tracker_worker.domain.views import node_view
from tracker_worker.errors import InstanceElsewhere, InvalidInput, NodeNotFound

RESERVE = resources(memory_mb=512)
CHANGED = {"tracked": True, "changed": True}
UNCHANGED = {"tracked": True, "changed": False}
IGNORED = {"tracked": False, "changed": False}


def tracked(**fields):
    """A host that holds instance 1, whose claim is finished."""
    host = host_ledger()
    play(host, begin(1, **fields))
    play(host, FinishClaim(claim_id=uuid(1)))
    return host


def nothing_happens(host, command, reply):
    before = [snapshot(ledger) for ledger in host]
    decision = play(host, command)
    assert (decision.events, decision.reply, decision.error) == ((), reply, None)
    assert [snapshot(ledger) for ledger in host] == before


@pytest.mark.behaviour("usage-update")
@pytest.mark.parametrize("fields", [{"vm_state": "active"}, {"vm_state": "deleted"}, {"memory_mb": 1}, {}])
def test_an_update_of_an_instance_that_is_not_tracked_is_ignored(fields):
    nothing_happens(host_ledger(), update(1, **fields), IGNORED)
    nothing_happens(host_ledger(disabled=True), update(1, **fields), IGNORED)


@pytest.mark.behaviour("usage-update")
@pytest.mark.parametrize(
    "fields", [instance_dict(), {}, {"unread": 1}, {"vm_state": "building"}, {"metadata": {"role": "web"}}]
)
def test_an_update_without_a_change_gives_no_event(fields):
    fields = {name: value for name, value in fields.items() if name != "uuid"}
    nothing_happens(tracked(), update(1, **fields), UNCHANGED)


@pytest.mark.behaviour("usage-update")
def test_a_repeated_update_changes_nothing():
    host = tracked()
    assert play(host, update(1, vm_state="active", task_state=None)).reply == CHANGED
    nothing_happens(host, update(1, vm_state="active", task_state=None), UNCHANGED)


@pytest.mark.behaviour("usage-update", "workload-counters")
def test_an_update_of_states_takes_effect_and_the_counters_follow():
    host = tracked(vm_state="building", task_state="spawning")
    decision = play(host, update(1, vm_state="active", task_state=None))
    (event,) = happened(decision)
    assert type(event) is UsageUpdated
    assert (event.before.instance.vm_state, event.allocation.instance.vm_state) == ("building", "active")
    stats = decision.node.stats.to_dict()
    assert (stats["num_vm_active"], stats["num_task_None"], stats["io_workload"]) == (1, 1, 0)
    assert "num_vm_building" not in stats
    assert decision.node.usage == instance(1).resources + RESERVE


@pytest.mark.behaviour("usage-update")
@pytest.mark.parametrize(
    ("field", "value"),
    [("display_name", "db"), ("metadata", {"role": "db"}), ("image_meta", {}), ("launched_at", "2026-01-15T12:00:01Z"),
     ("user_id", "u"), ("instance_type", "m1.small"), ("instance_flavor_id", "2"), ("availability_zone", None),
     ("project_id", "q"), ("os_type", None)],
)  # fmt: skip
def test_an_update_of_a_field_that_billing_reads_is_a_change(field, value):
    decision = play(tracked(), update(1, **{field: value}))
    assert decision.reply == CHANGED
    assert [getattr(event.allocation.instance, field) for event in happened(decision)] == [value]


@pytest.mark.behaviour("usage-update")
@pytest.mark.parametrize("owner", [{"project_id": "", "user_id": ""}, {"project_id": None, "user_id": None}])
def test_an_update_whose_owner_says_nothing_changes_no_owner(owner):
    host = tracked(project_id="p", user_id="u")
    assert play(host, update(1, **owner)).reply == {"tracked": True, "changed": False}


@pytest.mark.behaviour("release-states")
@pytest.mark.parametrize("vm_state", ["soft-delete", "error", "stopped", "suspended", "paused", "shelved", None])
def test_an_update_to_a_state_other_than_deleted_keeps_the_charge(vm_state):
    host = tracked()
    play(host, update(1, vm_state=vm_state))
    assert host.node("node-1").usage == instance(1).resources + RESERVE


@pytest.mark.behaviour("usage-update")
@pytest.mark.parametrize("finished", [True, False])
def test_an_update_to_deleted_releases_allocation_and_claim_with_one_event(finished):
    host = host_ledger()
    play(host, begin(1))
    if finished:
        play(host, FinishClaim(claim_id=uuid(1)))
    decision = play(host, update(1, vm_state="deleted", deleted_at="2026-01-15T13:00:00Z"))
    assert decision.reply == CHANGED
    (event,) = happened(decision)
    assert type(event) is UsageReleased
    assert event.before.instance.vm_state == "building"
    assert (event.allocation.instance.vm_state, event.allocation.instance.deleted_at) == (
        "deleted",
        "2026-01-15T13:00:00Z",
    )
    assert decision.node.usage == RESERVE
    assert (decision.node.allocations, decision.node.begun) == ({}, set())
    nothing_happens(host, update(1, vm_state="deleted"), IGNORED)


@pytest.mark.behaviour("release-states")
def test_an_offloaded_instance_is_released_at_the_change_and_not_while_it_is_unshelved():
    host = tracked(vm_state="shelved_offloaded", task_state="spawning")
    play(host, update(1, vm_state="shelved_offloaded", task_state=None))
    play(host, update(1, vm_state="shelved_offloaded", display_name="db"))
    assert host.node("node-1").usage == instance(1).resources + RESERVE
    play(host, update(1, vm_state="active"))
    (event,) = happened(play(host, update(1, vm_state="shelved_offloaded", task_state="spawning")))
    assert type(event) is UsageReleased
    assert host.node("node-1").usage == RESERVE


@pytest.mark.behaviour("size-change")
@pytest.mark.parametrize("finished", [True, False])
def test_a_change_of_size_replaces_the_old_vector_by_the_new_one_with_one_event(finished):
    host = host_ledger()
    play(host, begin(1, **sized(2, 4096, 50)))
    if finished:
        play(host, FinishClaim(claim_id=uuid(1)))
    decision = play(host, update(1, **sized(4, 1024, 500)))
    (event,) = happened(decision)
    assert type(event) is UsageUpdated
    assert (event.before.resources, event.allocation.resources) == (resources(2, 4096, 50), resources(4, 1024, 500))
    assert decision.node.usage == resources(4, 1024, 500) + RESERVE
    assert decision.node.stats.num_vcpus_used == 4
    assert decision.node.begun == (set() if finished else {uuid(1)})
    view = node_view(decision.node)
    assert (view["memory_mb_used"], view["local_gb_used"], view["vcpus_used"]) == (1536, 500, 4)


@pytest.mark.behaviour("size-change")
def test_a_deletion_that_carries_new_sizes_releases_the_charge():
    host = tracked(**sized(2, 4096, 50))
    play(host, begin(2))
    (event,) = happened(play(host, update(1, vm_state="deleted", **sized(64, 99999, 999))))
    assert event.before.resources == event.allocation.resources == resources(2, 4096, 50)
    assert event.allocation.instance.resources == resources(2, 4096, 50)
    assert host.node("node-1").usage == instance(2).resources + RESERVE


@pytest.mark.behaviour("size-change")
def test_an_instance_that_grows_and_is_deleted_leaves_usage_at_the_reserve():
    host = tracked()
    play(host, update(1, memory_mb=9999, ephemeral_gb=99))
    play(host, update(1, vm_state="deleted"))
    assert host.node("node-1").usage == RESERVE


@pytest.mark.behaviour("size-change")
def test_a_size_that_an_update_does_not_carry_stays():
    host = tracked(**sized(2, 4096, 50))
    assert play(host, update(1, memory_mb=1)).node.usage == resources(2, 1, 50) + RESERVE


@pytest.mark.behaviour("size-change")
def test_a_change_of_size_is_not_checked_against_limits():
    host = host_ledger()
    play(host, begin(1, vcpus=2, limits={"vcpu": 2}, capacity_limits=True))
    assert play(host, update(1, vcpus=2000)).reply == CHANGED


@pytest.mark.behaviour("size-values")
def test_an_update_with_an_invalid_size_is_refused():
    with pytest.raises(InvalidInput) as caught:
        update(1, memory_mb=-1)
    assert caught.value.kwargs["field"] == "instance.memory_mb"


@pytest.mark.behaviour("usage-update")
def test_an_update_finds_the_instance_on_whichever_node_holds_it():
    host = host_ledger(nodes=2)
    play(host, begin(1, node="node-2"))
    assert play(host, update(1, node="node-2", vm_state="active")).reply == CHANGED
    assert play(host, update(1, vm_state="stopped")).reply == CHANGED
    nothing_happens(host, update(2), IGNORED)
    nothing_happens(host, update(2, node="node-1"), IGNORED)
    assert type(planned(host, update(2, node="elsewhere")).error) is NodeNotFound


@pytest.mark.behaviour("usage-update")
@pytest.mark.parametrize("node", ["node-1", "elsewhere"])
@pytest.mark.parametrize("fields", [{}, {"vm_state": "deleted"}])
def test_an_update_that_names_another_node_is_told_where_the_instance_is(node, fields):
    host = host_ledger(nodes=2)
    play(host, begin(1, node="node-2"))
    before = [snapshot(ledger) for ledger in host]
    error = play(host, update(1, node=node, **fields)).error
    assert type(error) is InstanceElsewhere
    assert error.kwargs == {"instance_uuid": uuid(1), "host": HOST, "node": "node-2"}
    assert [snapshot(ledger) for ledger in host] == before


@pytest.mark.parametrize(("fields", "left"), [({"vm_state": "deleted"}, 0), ({"vm_state": "active"}, 1)])
def test_instances_on_a_disabled_node_can_be_updated(fields, left):
    host = tracked()
    play(host, ReportNode(node="node-1", inventory=None))
    assert play(host, update(1, **fields)).reply == CHANGED
    assert host.node("node-1").stats.num_instances == left


@pytest.mark.behaviour("audit")
def test_a_new_or_changed_inventory_gives_one_event_and_an_unchanged_one_gives_none():
    host = host_ledger(disabled=True)
    seen = []
    for reported in (None, inventory(), inventory(), inventory(vcpus=1), inventory(vcpus=1), None, None, inventory()):
        command = ReportNode(node="node-1", inventory=reported, keeps_inventory=False)
        seen.append([type(event) for event in happened(play(host, command))])
    one = [NodeUpdated]
    assert seen == [[], one, [], one, [], one, [], one]


@pytest.mark.behaviour("audit")
@pytest.mark.parametrize(
    "change",
    [
        {"memory_mb": 1},
        {"cpu_info": "x"},
        {"disk_available_least": 1},
        {"reserved_memory_mb": 1},
        {"reserved_disk_mb": 1},
    ],
)
def test_a_change_of_totals_facts_or_reserve_is_a_change_of_inventory(change):
    decision = play(host_ledger(), ReportNode(node="node-1", inventory=inventory(**change)))
    assert [type(event) for event in happened(decision)] == [NodeUpdated]


@pytest.mark.behaviour("audit")
def test_the_used_figures_of_the_driver_do_not_change_the_inventory():
    host = tracked()
    nothing_happens(host, ReportNode(node="node-1", inventory=inventory(memory_mb_used=9999, vcpus_used=30)), None)


@pytest.mark.behaviour("audit")
def test_an_inventory_changes_no_allocation():
    host = tracked()
    play(host, begin(2))
    before = snapshot(host.node("node-1"))
    play(host, ReportNode(node="node-1", inventory=None))
    play(host, ReportNode(node="node-1", inventory=inventory(vcpus=1, memory_mb=1, local_gb=1)))
    after = snapshot(host.node("node-1"))
    same = ("allocations", "begun", "charged", "projects", "stats")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


@pytest.mark.behaviour("audit")
def test_drift_is_reported_once_with_both_figures_and_usage_stays_the_sum():
    host = tracked()
    ledger = host.node("node-1")
    ledger.drift = resources(9, 9, 9)
    usage = ledger.usage
    decision = play(host, ReportNode(node="node-1", inventory=inventory(vcpus=1)))
    drift, _ = happened(decision)
    assert [type(event) for event in happened(decision)] == [UsageDrift, NodeUpdated]
    assert (drift.stored, drift.usage) == (resources(9, 9, 9), usage)
    assert ledger.usage == usage
    nothing_happens(host, ReportNode(node="node-1", inventory=inventory(vcpus=1)), None)


@pytest.mark.behaviour("audit")
def test_an_audit_of_an_unknown_node_is_node_not_found():
    assert type(planned(host_ledger(), ReportNode(node="elsewhere", inventory=None)).error) is NodeNotFound
