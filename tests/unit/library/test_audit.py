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


def test_s6_s23_the_node_view_has_the_driver_s_keys_and_what_is_used_and_free() -> None:
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


def test_s7_the_reserve_counts_as_used_and_disk_is_rounded_up() -> None:
    tracker = audited(reserved_host_memory_mb=1000, reserved_host_disk_mb=1025)
    assert used(tracker) == (0, 1000, 2)
    assert used(audited(reserved_host_disk_mb=1024)) == (0, 512, 1)


def test_s7_without_conf_the_defaults_hold_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_TRACKER__RESERVED_HOST_MEMORY_MB", "7")
    tracker = ResourceTracker(HOST, driver())
    tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (0, 512, 0)


def test_s21_the_driver_s_own_figures_of_use_are_not_counted() -> None:
    driven = driver()
    tracker = audited(driven)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    driven.nodes[NODE] = driver_resource_dict(vcpus_used=2, memory_mb_used=4608, local_gb_used=50)
    tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (2, 4608, 50)


def test_s21_an_audit_that_finds_nothing_new_writes_nothing() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker), event_types(store)
    tracker.update_available_resource(CONTEXT)
    assert (picture(tracker), event_types(store)) == before


def test_s21_an_audit_takes_over_what_changed_and_leaves_the_instances() -> None:
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


def test_s5_all_keys_that_are_missing_are_named_and_what_was_there_stays() -> None:
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
def test_s9_a_failing_audit_leaves_everything_and_the_next_one_runs(resource: Any) -> None:
    driven = driver()
    clock = Clock()
    tracker = audited(driven, clock=clock)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker)
    clock.at += 601
    driven.nodes[NODE] = resource
    with pytest.raises((InvalidInput, OSError)):
        tracker.update_available_resource(CONTEXT)
    # The claim is overdue, and not even that is half done.
    assert picture(tracker) == before
    driven.nodes[NODE] = driver_resource_dict(memory_mb=99_999)
    tracker.update_available_resource(CONTEXT)
    assert tracker.claims == {}
    assert tracker.compute_node is not None
    assert tracker.compute_node["memory_mb"] == 99_999


def test_s9_a_listing_that_fails_leaves_everything() -> None:
    driven = driver()
    tracker = audited(driven)
    before = picture(tracker)
    driven.listing_error = OSError("libvirt is away")
    with pytest.raises(OSError, match="libvirt is away"):
        tracker.update_available_resource(CONTEXT)
    assert picture(tracker) == before


def test_s21_the_audit_is_atomic(failing_store: FailingMemoryStore | FailingSQLStore) -> None:
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


def test_s8_a_first_audit_that_cannot_be_stored_is_no_successful_one(
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


@pytest.mark.parametrize(("policy", "left"), [("keep", (2, 4608, 50)), ("release", (0, 512, 0))])
def test_s19_an_audit_drops_claims_past_their_time_and_the_option_says_what_becomes_of_the_usage(
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


def test_s19_the_option_may_change_while_the_tracker_runs() -> None:
    clock = Clock()
    options = conf()
    tracker = ResourceTracker(HOST, driver(), conf=options, clock=clock)
    tracker.update_available_resource(CONTEXT)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    options.set_override("expired_claims", "release", group="tracker")
    clock.at += 601
    tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (0, 512, 0)


def test_s19_only_the_claims_that_are_due_expire_and_finished_ones_never() -> None:
    clock = Clock()
    tracker = audited(clock=clock, expired_claims="release")
    for number, timeout in ((1, 10), (2, 20), (3, 5)):
        tracker.begin_resource_claim(CONTEXT, instance_dict(number), timeout=timeout)
    tracker.finish_resource_claim(uuid(3))
    clock.at += 15
    tracker.update_available_resource(CONTEXT)
    assert list(tracker.claims) == [uuid(2)]
    assert sorted(tracker.tracked_instances) == [uuid(2), uuid(3)]


def test_d1_an_audit_neither_charges_what_is_deleted_nor_releases_it_again() -> None:
    tracker = audited()
    instance = instance_dict(1)
    claim = tracker.begin_resource_claim(CONTEXT, instance)
    tracker.update_usage(CONTEXT, instance_dict(1, vm_state="deleted"))
    tracker.update_available_resource(CONTEXT)
    tracker.abort_resource_claim(CONTEXT, claim, instance)
    tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (0, 512, 0)


def test_s21_an_instance_that_the_driver_does_not_know_of_keeps_what_it_was_charged() -> None:
    tracker = audited()
    tracker.begin_resource_claim(CONTEXT, instance_dict(1, **sized(TOTAL["VCPU"])))
    for _ in range(3):
        tracker.update_available_resource(CONTEXT)
    assert used(tracker) == (TOTAL["VCPU"], 512, 0)


def test_s21_the_only_node_is_remembered_when_others_join_it(caplog: pytest.LogCaptureFixture) -> None:
    driven = driver()
    tracker = audited(driven)
    driven.nodes["node-2"] = driver_resource_dict()
    with caplog.at_level(logging.WARNING):
        tracker.update_available_resource(CONTEXT)
    assert driven.calls == [NODE, NODE]
    assert caplog.records == []
