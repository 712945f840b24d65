# SPDX-License-Identifier: Apache-2.0
"""``update_available_resource``: the audit."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.builders import HOST, NODE, TOTAL, driver_resource_dict, instance_dict, sized, uuid
from tests.support.tracker import (
    CONTEXT,
    Clock,
    FailingMemoryStore,
    FailingSQLStore,
    audited,
    conf,
    driver,
    event_types,
    picture,
    used,
)
from tracker_worker.domain.inventory import REQUIRED
from tracker_worker.errors import InvalidInput, StoreUnavailable
from tracker_worker.library.tracker import ResourceTracker
from tracker_worker.store.memory import MemoryStore


@pytest.mark.behaviour("node-view", "free-amounts")
def test_a_node_view_has_the_keys_of_the_driver_and_the_used_and_free_amounts() -> None:
    tracker = audited()
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    view = tracker.compute_node
    assert view is not None
    reported = driver_resource_dict()
    facts = ("cpu_info", "hypervisor_type", "hypervisor_version", "hypervisor_hostname", "disk_available_least")
    assert {key: view[key] for key in facts} == {key: reported[key] for key in facts}
    assert (view["vcpus"], view["memory_mb"], view["local_gb"]) == (32, 131072, 2000)
    assert (view["vcpus_used"], view["memory_mb_used"], view["local_gb_used"]) == (2, 4608, 50)
    assert (view["free_ram_mb"], view["free_disk_gb"]) == (131072 - 4608, 2000 - 50)
    assert (view["running_vms"], view["current_workload"]) == (1, 1)
    assert view["stats"] == tracker.stats.to_dict()
    assert (view["host"], view["node"], type(view["id"])) == (HOST, NODE, int)


@pytest.mark.behaviour("option-defaults")
def test_the_reserve_counts_as_used_and_its_disk_is_rounded_up_to_gb() -> None:
    tracker = audited(reserved_host_memory_mb=1000, reserved_host_disk_mb=1025)
    assert used(tracker) == (0, 1000, 2)
    assert used(audited(reserved_host_disk_mb=1024)) == (0, 512, 1)


@pytest.mark.behaviour("option-defaults")
def test_a_tracker_without_conf_has_the_defaults_and_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_TRACKER__RESERVED_HOST_MEMORY_MB", "7")
    tracker = ResourceTracker(HOST, driver())
    tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (0, 512, 0)


@pytest.mark.behaviour("audit")
def test_an_audit_ignores_the_used_figures_of_the_driver() -> None:
    driven = driver()
    tracker = audited(driven)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    driven.nodes[NODE] = driver_resource_dict(vcpus_used=2, memory_mb_used=4608, local_gb_used=50)
    tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (2, 4608, 50)


@pytest.mark.behaviour("audit")
def test_an_audit_that_finds_nothing_new_writes_nothing() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker), event_types(store)
    tracker.update_available_resource(CONTEXT)
    assert (picture(tracker), event_types(store)) == before


@pytest.mark.behaviour("audit")
def test_an_audit_stores_a_changed_inventory_and_keeps_the_instances() -> None:
    driven = driver()
    store = MemoryStore()
    tracker = audited(driven, store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    driven.nodes[NODE] = driver_resource_dict(memory_mb=1024, cpu_info="other")
    tracker.update_available_resource(CONTEXT)
    view = tracker.compute_node
    assert view is not None
    assert (view["memory_mb"], view["free_ram_mb"], view["cpu_info"]) == (1024, 1024 - 4608, "other")
    assert event_types(store)[-1] == "tracker.node.updated"


@pytest.mark.behaviour("driver-answer")
def test_an_audit_names_all_missing_keys_and_keeps_the_previous_inventory() -> None:
    driven = driver()
    store = MemoryStore()
    tracker = audited(driven, store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker), event_types(store)
    reported = {"memory_mb": 1, "vcpus": 0}
    driven.nodes[NODE] = reported
    with pytest.raises(InvalidInput) as raised:
        tracker.update_available_resource(CONTEXT)
    assert raised.value.kwargs["field"].split(", ") == [key for key in REQUIRED if key not in reported]
    assert (picture(tracker), event_types(store)) == before


@pytest.mark.behaviour("start-order")
@pytest.mark.parametrize(
    "resource",
    [
        driver_resource_dict(memory_mb=-1),
        driver_resource_dict(vcpus=1.5),
        driver_resource_dict(local_gb=None),
        driver_resource_dict(cpu_info=object()),
        OSError("libvirt is away"),
    ],
)
def test_an_audit_that_fails_changes_nothing_and_the_next_audit_runs(resource: Any) -> None:
    driven = driver()
    clock = Clock()
    tracker = audited(driven, clock=clock)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker)
    clock.at += 601
    driven.nodes[NODE] = resource
    with pytest.raises((InvalidInput, OSError)):
        tracker.update_available_resource(CONTEXT)
    # The claim is overdue and must not expire either.
    assert picture(tracker) == before
    driven.nodes[NODE] = driver_resource_dict(memory_mb=99_999)
    tracker.update_available_resource(CONTEXT)
    assert tracker.claims == {}
    assert tracker.compute_node is not None
    assert tracker.compute_node["memory_mb"] == 99_999


@pytest.mark.behaviour("start-order")
def test_an_audit_changes_nothing_when_the_driver_cannot_list_its_nodes() -> None:
    driven = driver()
    tracker = audited(driven)
    before = picture(tracker)
    driven.listing_error = OSError("libvirt is away")
    with pytest.raises(OSError, match="libvirt is away"):
        tracker.update_available_resource(CONTEXT)
    assert picture(tracker) == before


@pytest.mark.behaviour("audit")
def test_an_audit_whose_commit_fails_changes_nothing(failing_store: FailingMemoryStore | FailingSQLStore) -> None:
    driven = driver()
    clock = Clock()
    tracker = audited(driven, store=failing_store, clock=clock)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker), event_types(failing_store)
    clock.at += 601
    driven.nodes[NODE] = driver_resource_dict(memory_mb=1)
    failing_store.failing = True
    with pytest.raises(StoreUnavailable):
        tracker.update_available_resource(CONTEXT)
    assert (picture(tracker), event_types(failing_store)) == before
    failing_store.failing = False
    tracker.update_available_resource(CONTEXT)
    assert event_types(failing_store)[-2:] == ["tracker.claim.expired", "tracker.node.updated"]


@pytest.mark.behaviour("disabled-until-audited")
def test_a_first_audit_that_cannot_be_stored_leaves_the_tracker_disabled(
    failing_store: FailingMemoryStore | FailingSQLStore,
) -> None:
    audited(store=failing_store).begin_resource_claim(CONTEXT, instance_dict(1))
    driven = driver()
    driven.nodes[NODE] = driver_resource_dict(memory_mb=1)
    again = ResourceTracker(HOST, driven, store=failing_store, conf=conf())
    failing_store.failing = True
    with pytest.raises(StoreUnavailable):
        again.update_available_resource(CONTEXT)
    assert again.disabled
    failing_store.failing = False
    again.update_available_resource(CONTEXT)
    assert list(again.tracked_instances) == [uuid(1)]


@pytest.mark.behaviour("claim-expiry")
@pytest.mark.parametrize(("policy", "left"), [("keep", (2, 4608, 50)), ("release", (0, 512, 0))])
def test_an_audit_ends_overdue_claims_and_keeps_or_releases_their_usage_as_the_option_says(
    policy: str, left: tuple[int, int, int]
) -> None:
    clock = Clock()
    store = MemoryStore()
    tracker = audited(store=store, clock=clock, expired_claims=policy)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1), timeout=2.5)
    clock.at += 2.5
    tracker.update_available_resource(CONTEXT)
    assert list(tracker.claims) == [uuid(1)]
    clock.at += 0.000001
    assert list(tracker.claims) == [uuid(1)]
    tracker.update_available_resource(CONTEXT)
    assert (tracker.claims, used(tracker)) == ({}, left)
    assert list(tracker.tracked_instances) == ([uuid(1)] if policy == "keep" else [])
    assert event_types(store)[-1] == "tracker.claim.expired"


@pytest.mark.behaviour("claim-expiry")
def test_the_option_expired_claims_may_change_while_the_tracker_runs() -> None:
    clock = Clock()
    options = conf()
    tracker = ResourceTracker(HOST, driver(), conf=options, clock=clock)
    tracker.update_available_resource(CONTEXT)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    options.set_override("expired_claims", "release", group="tracker")
    clock.at += 601
    tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (0, 512, 0)


@pytest.mark.behaviour("claim-expiry")
def test_an_audit_expires_overdue_claims_only_and_never_a_finished_claim() -> None:
    clock = Clock()
    tracker = audited(clock=clock, expired_claims="release")
    for number, timeout in ((1, 10), (2, 20), (3, 5)):
        tracker.begin_resource_claim(CONTEXT, instance_dict(number), timeout=timeout)
    tracker.finish_resource_claim(uuid(3))
    clock.at += 15
    tracker.update_available_resource(CONTEXT)
    assert list(tracker.claims) == [uuid(2)]
    assert sorted(tracker.tracked_instances) == [uuid(2), uuid(3)]


@pytest.mark.behaviour("release-exactly-once")
def test_an_audit_neither_charges_a_deleted_instance_nor_releases_it_again() -> None:
    tracker = audited()
    instance = instance_dict(1)
    claim = tracker.begin_resource_claim(CONTEXT, instance)
    tracker.update_usage(CONTEXT, instance_dict(1, vm_state="deleted"))
    tracker.update_available_resource(CONTEXT)
    tracker.abort_resource_claim(CONTEXT, claim, instance)
    tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (0, 512, 0)


@pytest.mark.behaviour("audit")
def test_an_instance_that_the_driver_does_not_know_keeps_its_charge() -> None:
    tracker = audited()
    tracker.begin_resource_claim(CONTEXT, instance_dict(1, **sized(TOTAL["VCPU"])))
    for _ in range(3):
        tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (TOTAL["VCPU"], 512, 0)


@pytest.mark.behaviour("audit")
def test_a_tracker_keeps_auditing_its_only_node_when_the_host_gets_more_nodes(caplog: pytest.LogCaptureFixture) -> None:
    driven = driver()
    tracker = audited(driven)
    driven.nodes["node-2"] = driver_resource_dict()
    with caplog.at_level(logging.WARNING):
        tracker.update_available_resource(CONTEXT)
    assert driven.calls == [NODE, NODE]
    assert caplog.records == []
