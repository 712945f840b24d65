# SPDX-License-Identifier: Apache-2.0
"""The views of nodes, claims and usage per project that callers get."""

from __future__ import annotations

import json

import pytest

from tests.support.builders import (
    HOST,
    NOW,
    begin,
    claim_id,
    driver_resource_dict,
    host_ledger,
    inventory,
    play,
    put,
    resources,
    sized,
    snapshot,
    update,
    uuid,
)
from tracker_worker.domain.commands import AbortClaim, ExpireClaims, FinishClaim, ReportNode
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.views import each_claim_view, iso, node_view, usage_view

NODE_VIEW_KEYS = {
    "vcpus", "vcpus_used", "memory_mb", "memory_mb_used", "free_ram_mb", "local_gb", "local_gb_used", "free_disk_gb",
    "cpu_info", "hypervisor_type", "hypervisor_version", "hypervisor_hostname", "disk_available_least",
    "current_workload", "running_vms", "stats", "id",
}  # fmt: skip
RPC_KEYS = {
    "host", "node", "generation", "sequence", "disabled", "ledger_id", "state", "state_reason", "state_since", "resources",
}  # fmt: skip


def claims_of(*ledgers, **page):
    return list(each_claim_view(ledgers, **page))


@pytest.mark.behaviour("node-view")
def test_a_node_view_has_the_keys_of_the_driver_and_of_the_ledger():
    host = host_ledger(nodes=2)
    view = node_view(host.node("node-2"))
    assert set(view) == NODE_VIEW_KEYS | RPC_KEYS
    assert (view["id"], view["host"], view["node"], view["disabled"]) == (2, HOST, "node-2", False)
    assert (view["generation"], view["sequence"]) == (1, 1)
    assert view["hypervisor_hostname"] == "host-1.example.org"
    assert view["cpu_info"]["topology"]["cores"] == 8


@pytest.mark.behaviour("node-view")
def test_an_optional_fact_that_the_driver_left_out_is_none():
    host = host_ledger(disabled=True)
    answer = driver_resource_dict()
    del answer["hypervisor_type"]
    play(host, ReportNode(node="node-1", inventory=read_inventory(answer, resources())))
    assert node_view(host.node("node-1"))["hypervisor_type"] is None


@pytest.mark.behaviour("free-amounts")
def test_free_is_total_minus_used_and_used_is_reserve_plus_charges():
    host = host_ledger(reported=inventory(vcpus=8, memory_mb=10_000, local_gb=100, reserved_disk_mb=1025))
    play(host, begin(1, **sized(2, 4096, 50)))
    play(host, begin(2, **sized(1, 1024, 10)))
    view = node_view(host.node("node-1"))
    assert (view["memory_mb"], view["memory_mb_used"], view["free_ram_mb"]) == (10_000, 5632, 4368)
    assert (view["local_gb"], view["local_gb_used"], view["free_disk_gb"]) == (100, 62, 38)
    assert (view["vcpus"], view["vcpus_used"]) == (8, 3)


@pytest.mark.behaviour("limit-rule")
def test_a_negative_free_amount_is_reported_and_not_clamped():
    host = host_ledger(reported=inventory(vcpus=1, memory_mb=100, local_gb=10))
    assert node_view(host.node("node-1"))["free_ram_mb"] == -412
    play(host, begin(1, **sized(2, 1000, 50)))
    view = node_view(host.node("node-1"))
    assert (view["free_ram_mb"], view["free_disk_gb"], view["vcpus_used"]) == (-1412, -40, 2)


@pytest.mark.behaviour("workload-counters")
def test_running_vms_current_workload_and_stats_are_in_the_view():
    host = host_ledger()
    play(host, begin(1, vm_state="active", task_state=None))
    play(host, begin(2, vm_state="building", task_state="spawning"))
    view = node_view(host.node("node-1"))
    assert (view["running_vms"], view["current_workload"]) == (2, 1)
    assert view["stats"]["num_instances"] == 2
    assert view["stats"]["io_workload"] == 1
    assert view["stats"]["num_vm_active"] == 1


@pytest.mark.behaviour("disabled-until-audited")
def test_the_view_of_a_disabled_node_has_neither_totals_nor_free_amounts():
    host = host_ledger(disabled=True)
    view = node_view(host.node("node-1"))
    assert view["disabled"] is True
    assert {view[key] for key in ("vcpus", "memory_mb", "local_gb", "free_ram_mb", "free_disk_gb", "cpu_info")} == {
        None
    }
    assert (view["vcpus_used"], view["memory_mb_used"], view["local_gb_used"]) == (0, 0, 0)
    assert (view["state"], view["state_since"]) == ("unsupported", iso(NOW))


def test_a_node_that_is_disabled_later_still_shows_its_usage():
    host = host_ledger()
    play(host, begin(1, **sized(2, 4096, 50)))
    play(host, ReportNode(node="node-1", inventory=None))
    view = node_view(host.node("node-1"))
    assert (view["vcpus_used"], view["local_gb_used"], view["running_vms"]) == (2, 50, 1)


def test_the_sequence_of_a_view_is_the_last_one_issued():
    host = host_ledger()
    put(host, begin(1))
    put(host, begin(2, limits={"vcpu": 0}))
    assert node_view(host.node("node-1"))["sequence"] == 3


@pytest.mark.behaviour("copies-only")
def test_a_node_view_is_a_copy_to_every_depth():
    host = host_ledger()
    play(host, begin(1))
    ledger = host.node("node-1")
    before, first = snapshot(ledger), node_view(ledger)
    first["cpu_info"]["topology"]["cores"] = 0
    first["stats"].clear()
    first.clear()
    assert snapshot(ledger) == before
    assert node_view(ledger)["cpu_info"]["topology"]["cores"] == 8


def test_listed_claims_are_begun_and_not_ended_and_sorted_by_claim_id():
    host = host_ledger()
    for number, now in ((1, NOW + 2), (3, NOW + 1), (2, NOW + 1), (4, NOW), (5, NOW), (6, NOW)):
        play(host, begin(number, timeout=100 if number < 6 else 1), now)
    play(host, begin(7, more={"claim_id": "a-claim"}))
    play(host, FinishClaim(claim_id=uuid(4)))
    play(host, AbortClaim(claim_id=uuid(5)))
    play(host, ExpireClaims(node="node-1"), NOW + 50)
    listed = claims_of(host.node("node-1"))
    ids = [view["claim_id"] for view in listed]
    assert ids == sorted(claim_id(host, number) for number in (1, 2, 3, 7))
    assert ids[-1] == "a-claim"
    assert {view["state"] for view in listed} == {"begun"}
    assert claims_of(host_ledger().node("node-1")) == []


def test_claims_are_listed_in_pages_over_all_nodes():
    host = host_ledger(nodes=2)
    for number in range(1, 8):
        play(host, begin(number, node=f"node-{1 + number % 2}"), NOW + number)
    whole = claims_of(*host)
    assert [view["instance_uuid"] for view in whole] == [uuid(number) for number in range(1, 8)]
    pages, after = [], None
    while page := claims_of(*host, limit=3, after=after):
        pages.append(page)
        after = page[-1]["claim_id"]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [view for page in pages for view in page] == whole


def test_a_listed_claim_is_the_claim_that_begin_returned():
    host = host_ledger()
    assert claims_of(host.node("node-1")) == []
    reply = play(host, begin(1)).reply
    assert claims_of(host.node("node-1")) == [reply]


@pytest.mark.behaviour("copies-only")
def test_a_listed_claim_is_a_copy():
    host = host_ledger()
    play(host, begin(1))
    (view,) = claims_of(host.node("node-1"))
    view["resources"]["VCPU"] = 99
    assert claims_of(host.node("node-1"))[0]["resources"]["VCPU"] == 2


def two_projects():
    host = host_ledger(nodes=2)
    play(host, begin(1, node="node-1", project_id="p", **sized(1, 10, 100)))
    play(host, begin(2, node="node-2", project_id="p", **sized(2, 20, 200)))
    play(host, begin(3, node="node-1", project_id="q", **sized(4, 40, 400)))
    play(host, FinishClaim(claim_id=uuid(1)))
    return host


P = {"instances": 2, "VCPU": 3, "MEMORY_MB": 30, "DISK_GB": 300}
Q = {"instances": 1, "VCPU": 4, "MEMORY_MB": 40, "DISK_GB": 400}


def test_usage_sums_begun_and_finished_claims_per_project_over_the_nodes():
    assert usage_view(two_projects()) == {"p": P, "q": Q}


def test_usage_of_one_project_has_only_that_project_without_the_reserve():
    assert usage_view(two_projects(), "q") == {"q": Q}


@pytest.mark.parametrize("project_id", ["r", ""])
def test_usage_has_no_entry_for_a_project_without_instances(project_id):
    assert usage_view(two_projects(), project_id) == {}


def test_usage_has_no_entry_for_a_project_after_its_last_instance():
    host = two_projects()
    play(host, update(3, node="node-1", vm_state="deleted"))
    assert usage_view(host) == {"p": P}


def test_usage_of_instances_without_a_project_has_the_empty_name():
    host = host_ledger()
    play(host, begin(1, project_id=None, **sized(1, 1, 1)))
    play(host, begin(2, project_id="", **sized(1, 1, 1)))
    expected = {"": {"instances": 2, "VCPU": 2, "MEMORY_MB": 2, "DISK_GB": 2}}
    assert usage_view(host) == usage_view(host, "") == expected


@pytest.mark.behaviour("copies-only")
def test_a_usage_view_is_a_copy():
    host = two_projects()
    usage_view(host)["p"]["VCPU"] = 99
    assert usage_view(host) == {"p": P, "q": Q}
    assert host.node("node-1").projects["p"].resources == resources(1, 10, 100)


@pytest.mark.behaviour("limit-values")
def test_every_view_is_json_without_floats_but_for_allocation_ratios():
    host = two_projects()
    play(host, begin(4, node="node-1", limits={"memory_mb": 1.5 * 131072, "vcpu": 512.0}))

    def refuse(text):
        raise AssertionError(text)

    for ledger in host:
        node = node_view(ledger)
        for each in node["resources"].values():
            assert each.pop("allocation_ratio") == 1.0
        for view in (node, claims_of(ledger)):
            json.loads(json.dumps(view), parse_float=refuse, parse_constant=refuse)
    json.loads(json.dumps(usage_view(host)), parse_float=refuse, parse_constant=refuse)
