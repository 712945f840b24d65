# SPDX-License-Identifier: Apache-2.0
"""Claims from begin to finish, abort or refusal.

The file is long because each step of a claim is tried with the same tracker and the same few functions.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.builders import HOST, NODE, NOW, instance_dict, sized, uuid
from tests.support.tracker import CONTEXT, Clock, audited, event_types, picture, used
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable, InvalidInput
from tracker_worker.library.tracker import Claim, ResourceTracker
from tracker_worker.store.memory import MemoryStore

# The size of instance_dict, and the usage without and with it; the reserve is 512 MB.
SIZE = (2, 4096, 50)
EMPTY = (0, 512, 0)
FULL = (2, 4608, 50)


def begun(tracker: ResourceTracker, instance: dict[str, Any] | None = None, **arguments: Any) -> Claim:
    claim = tracker.begin_resource_claim(CONTEXT, instance or instance_dict(1), **arguments)
    assert claim is not None
    return claim


@pytest.mark.behaviour("limit-rule")
def test_a_claim_up_to_the_limit_fits_and_a_claim_beyond_it_does_not() -> None:
    tracker = audited()
    assert tracker.begin_resource_claim(CONTEXT, instance_dict(1), {"memory_mb": 4607}) is None
    assert begun(tracker, instance_dict(1), limits={"memory_mb": 4608}).memory_mb == 4096
    assert used(tracker) == FULL


@pytest.mark.behaviour("limit-rule")
def test_a_limit_of_0_refuses_and_a_limit_of_none_does_not() -> None:
    tracker = audited()
    assert tracker.begin_resource_claim(CONTEXT, instance_dict(1), {"vcpu": 0}) is None
    begun(tracker, instance_dict(1, **sized(4000, 10**9, 10**9)), limits={"vcpu": None})


@pytest.mark.behaviour("limit-rule")
def test_a_claim_beyond_the_physical_total_fits_and_makes_free_amounts_negative() -> None:
    tracker = audited()
    begun(tracker, instance_dict(1, **sized(33, 200_000, 2500)))
    node = tracker.compute_node
    assert node is not None
    assert (node["free_ram_mb"], node["free_disk_gb"]) == (131072 - 512 - 200_000, -500)


@pytest.mark.behaviour("limit-keys")
def test_a_missing_limit_is_the_total_of_the_node_with_missing_limit_capacity() -> None:
    tracker = audited(missing_limit="capacity")
    assert tracker.begin_resource_claim(CONTEXT, instance_dict(1, **sized(33))) is None
    begun(tracker, instance_dict(1, **sized(32)))


@pytest.mark.behaviour("limit-rule")
def test_a_request_for_nothing_is_always_accepted() -> None:
    tracker = audited()
    begun(tracker, instance_dict(1), limits=None)
    begun(tracker, instance_dict(2, **sized()), limits={"memory_mb": 0, "disk_gb": 0, "vcpu": 0})
    assert used(tracker) == FULL


@pytest.mark.behaviour("limit-rule")
def test_a_refusal_changes_neither_ledger_nor_instance_and_gives_one_event() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    before = picture(tracker)
    instance = instance_dict(1)
    assert tracker.begin_resource_claim(CONTEXT, instance, {"memory_mb": 1}) is None
    assert instance == instance_dict(1)
    after = picture(tracker)
    assert event_types(store) == ["tracker.node.updated", "tracker.claim.rejected"]
    for view in (before, after):
        del view["compute_node"]["generation"], view["compute_node"]["sequence"]
    assert after == before


@pytest.mark.behaviour("limit-rule", "true-figures")
def test_a_refusal_names_every_shortfall_with_the_true_figures_in_error_and_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = audited()
    begun(tracker)
    limits = {"memory_mb": 8000.5, "disk_gb": 60, "vcpu": 3}
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(ComputeResourcesUnavailable) as raised,
        tracker.resource_claim(CONTEXT, instance_dict(2), limits),
    ):
        pass
    assert raised.value.kwargs["shortfalls"] == [
        {"resource": "VCPU", "requested": 2, "used": 2, "limit": 3},
        {"resource": "MEMORY_MB", "requested": 4096, "used": 4608, "limit": 8000},
        {"resource": "DISK_GB", "requested": 50, "used": 50, "limit": 60},
    ]
    [line] = [record.getMessage() for record in caplog.records]
    assert uuid(2) in line
    for figures in ("VCPU: requested 2, used 2, limit 3", "MEMORY_MB: requested 4096, used 4608, limit 8000"):
        assert figures in line


@pytest.mark.behaviour("atomic-claim")
def test_a_claim_sets_host_node_and_launched_on_and_is_in_all_views_immediately() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    instance = instance_dict(1)
    claim = begun(tracker, instance)
    assert (instance["host"], instance["node"], instance["launched_on"]) == (HOST, NODE, HOST)
    assert tracker.claims == {uuid(1): claim}
    assert list(tracker.tracked_instances) == [uuid(1)]
    assert (used(tracker), tracker.stats.num_instances) == (FULL, 1)
    assert event_types(store) == ["tracker.node.updated", "tracker.claim.begun"]


@pytest.mark.behaviour("host-already-set")
def test_an_instance_that_already_has_a_host_is_claimed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tracker = audited()
    instance = instance_dict(1, host="host-9", node="node-9")
    with caplog.at_level(logging.WARNING):
        begun(tracker, instance)
    [record] = caplog.records
    assert (record.levelname, "host-9" in record.getMessage(), uuid(1) in record.getMessage()) == (
        "WARNING",
        True,
        True,
    )
    assert (instance["host"], instance["node"]) == (HOST, NODE)


@pytest.mark.behaviour("claim-snapshot")
def test_a_claim_has_the_charged_amounts_and_its_expiry() -> None:
    clock = Clock()
    claim = begun(audited(clock=clock))
    assert (claim.vcpus, claim.memory_mb, claim.disk_gb) == SIZE
    assert claim.expire_ts == clock.at + 600
    assert (claim.instance.uuid, claim.instance.display_name) == (uuid(1), "web-1")
    assert str(claim) == f"[Claim {claim.claim_id}: 4096 MB memory, 50 GB disk, 2 VCPUs]"


@pytest.mark.behaviour("claim-snapshot")
def test_a_claim_is_expired_strictly_after_its_expiry() -> None:
    clock = Clock()
    claim = begun(audited(clock=clock), timeout=5)
    states = []
    for later in (0, 4.999999, 5, 5.000001):
        clock.at = NOW / SECOND + later
        states.append(claim.is_expired())
    assert states == [False, False, False, True]


@pytest.mark.behaviour("option-defaults")
@pytest.mark.parametrize(("timeout", "seconds"), [(None, 77), (0, 77), (0.0, 77), (0.25, 0.25), (1.5, 1.5), (3, 3)])
def test_a_timeout_may_have_fractions_and_none_and_0_mean_the_option(timeout: float | None, seconds: float) -> None:
    clock = Clock()
    claim = begun(audited(clock=clock, claim_timeout_seconds=77), timeout=timeout)
    assert claim.expire_ts == clock.at + seconds


@pytest.mark.behaviour("finish-keeps-usage")
def test_a_finish_drops_the_claim_and_keeps_the_usage() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    claim = begun(tracker)
    tracker.finish_resource_claim(claim)
    assert tracker.claims == {}
    assert used(tracker) == FULL
    assert list(tracker.tracked_instances) == [uuid(1)]
    assert event_types(store)[1:] == ["tracker.claim.begun", "tracker.claim.finished"]


@pytest.mark.behaviour("finish-keeps-usage", "claim-ids")
@pytest.mark.parametrize("named", ["claim", "claim id", "instance", "instance in capitals"])
def test_finish_renew_and_abort_accept_a_claim_its_id_and_the_uuid_of_its_instance(named: str) -> None:
    tracker = audited()
    claims = [begun(tracker, instance_dict(number)) for number in (10, 11)]
    names: list[Any] = [
        claim
        if named == "claim"
        else claim.claim_id
        if named == "claim id"
        else uuid(number).upper()
        if named.endswith("capitals")
        else uuid(number)
        for number, claim in enumerate(claims, 10)
    ]
    assert tracker.renew_resource_claim(names[0], 900) is not None
    tracker.finish_resource_claim(names[0])
    tracker.abort_resource_claim(CONTEXT, names[1])
    assert tracker.claims == {}
    assert list(tracker.tracked_instances) == [uuid(10)]


@pytest.mark.behaviour("claim-ids")
def test_each_claim_has_an_id_of_its_own_and_a_late_end_ends_no_other_claim() -> None:
    tracker = audited()
    first = begun(tracker)
    tracker.abort_resource_claim(CONTEXT, first)
    second = begun(tracker)
    assert len({first.claim_id, second.claim_id, uuid(1)}) == 3
    tracker.abort_resource_claim(CONTEXT, first)
    tracker.finish_resource_claim(first)
    assert tracker.renew_resource_claim(first) is None
    assert tracker.claims == {uuid(1): second}


@pytest.mark.behaviour("claim-ids")
def test_a_caller_may_choose_the_id_of_a_claim_once() -> None:
    tracker = audited()
    claim = begun(tracker, instance_dict(1), claim_id="{" + uuid(77).upper() + "}")
    assert claim.claim_id == uuid(77)
    assert begun(tracker, instance_dict(1), claim_id="other") == claim
    other = instance_dict(2)
    with pytest.raises(ClaimConflict):
        tracker.begin_resource_claim(CONTEXT, other, claim_id=uuid(77))
    assert other == instance_dict(2)
    for name in ("", " x", "x" * 256):
        with pytest.raises(InvalidInput) as raised:
            tracker.begin_resource_claim(CONTEXT, other, claim_id=name)
        assert raised.value.kwargs["field"] == "claim_id"


@pytest.mark.behaviour("renewal")
def test_a_renewed_claim_expires_later_and_never_earlier() -> None:
    store = MemoryStore()
    clock = Clock()
    tracker = audited(store=store, clock=clock)
    claim = begun(tracker, timeout=100)
    clock.at += 50
    assert tracker.renew_resource_claim(claim, 10) == claim
    renewed = tracker.renew_resource_claim(claim, 200)
    assert renewed is not None
    assert (renewed.claim_id, renewed.expire_ts) == (claim.claim_id, clock.at + 200)
    assert tracker.claims == {uuid(1): renewed}
    assert event_types(store)[1:] == ["tracker.claim.begun", "tracker.claim.renewed"]
    clock.at += 201
    tracker.update_available_resource(CONTEXT)
    assert tracker.renew_resource_claim(claim) is None
    with pytest.raises(InvalidInput) as raised:
        tracker.renew_resource_claim(claim, -1)
    assert raised.value.kwargs["field"] == "timeout"


@pytest.mark.behaviour("claim-expiry")
@pytest.mark.parametrize("option", ["keep", "release"])
@pytest.mark.parametrize("own", ["keep", "release", None])
@pytest.mark.parametrize("reported", ["active", "building", None])
def test_a_claim_may_say_what_its_expiry_does_unless_its_instance_was_reported_built(
    option: str, own: str | None, reported: str | None
) -> None:
    clock = Clock()
    tracker = audited(clock=clock, expired_claims=option)
    begun(tracker, on_expiry=own)
    if reported is not None:
        tracker.update_usage(CONTEXT, {"uuid": uuid(1), "vm_state": reported})
    clock.at += 601
    tracker.update_available_resource(CONTEXT)
    kept = reported == "active" or (own or option) == "keep"
    assert (tracker.claims, used(tracker)) == ({}, FULL if kept else EMPTY)


@pytest.mark.behaviour("claim-expiry")
def test_another_word_for_what_an_expiry_does_is_refused() -> None:
    with pytest.raises(InvalidInput) as raised:
        audited().begin_resource_claim(CONTEXT, instance_dict(1), on_expiry="drop")
    assert raised.value.kwargs["field"] == "on_expiry"


@pytest.mark.behaviour("finish-keeps-usage", "abort-releases")
@pytest.mark.parametrize("end", ["finish", "abort"])
@pytest.mark.parametrize("ended", ["finished", "aborted", "expired", "never begun"])
def test_ending_an_unknown_claim_changes_nothing_and_is_logged(
    end: str, ended: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    clock = Clock()
    tracker = audited(store=store, clock=clock)
    instance = instance_dict(1)
    claim = begun(tracker, instance)
    if ended == "finished":
        tracker.finish_resource_claim(claim)
    elif ended == "aborted":
        tracker.abort_resource_claim(CONTEXT, claim)
    elif ended == "expired":
        clock.at += 601
        tracker.update_available_resource(CONTEXT)
    before = picture(tracker), event_types(store), dict(instance)
    named = uuid(9) if ended == "never begun" else claim
    with caplog.at_level(logging.INFO):
        if end == "finish":
            tracker.finish_resource_claim(named)
        else:
            tracker.abort_resource_claim(CONTEXT, named, instance)
    assert (picture(tracker), event_types(store), instance) == before
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.behaviour("finish-keeps-usage", "abort-releases")
def test_ending_the_claim_none_changes_nothing() -> None:
    tracker = audited()
    begun(tracker)
    before = picture(tracker)
    tracker.finish_resource_claim(None)
    tracker.abort_resource_claim(CONTEXT, None, instance_dict(1))
    assert picture(tracker) == before


@pytest.mark.behaviour("abort-releases")
def test_an_abort_releases_the_charge_and_clears_the_instance() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    instance = instance_dict(1)
    claim = begun(tracker, instance)
    instance["memory_mb"] = 1
    tracker.abort_resource_claim(CONTEXT, claim, instance)
    assert (instance["host"], instance["node"], instance["launched_on"]) == (None, None, None)
    assert (tracker.claims, tracker.tracked_instances, used(tracker)) == ({}, {}, EMPTY)
    assert event_types(store)[1:] == ["tracker.claim.begun", "tracker.claim.aborted"]
    tracker.update_available_resource(CONTEXT)
    assert used(tracker) == EMPTY


@pytest.mark.behaviour("repeated-claim")
def test_a_repeated_begin_returns_the_same_claim() -> None:
    store = MemoryStore()
    clock = Clock()
    tracker = audited(store=store, clock=clock)
    claim = begun(tracker)
    before = picture(tracker), event_types(store)
    clock.at += 100
    again = instance_dict(1, display_name="other", host=None)
    # The disk is the same in sum, and the claim would exceed this limit now.
    again.update(root_gb=10, ephemeral_gb=40)
    assert begun(tracker, again, limits={"memory_mb": 1}, timeout=1) == claim
    assert again["host"] == HOST
    assert (picture(tracker), event_types(store)) == before


@pytest.mark.behaviour("repeated-claim")
def test_a_begin_with_other_sizes_is_a_conflict_and_leaves_the_instance_unchanged() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    begun(tracker)
    before = picture(tracker), event_types(store)
    other = instance_dict(1, vcpus=3)
    with pytest.raises(ClaimConflict):
        tracker.begin_resource_claim(CONTEXT, other)
    assert other == instance_dict(1, vcpus=3)
    assert (picture(tracker), event_types(store)) == before


@pytest.mark.behaviour("release-exactly-once")
def test_a_deleted_instance_cannot_be_claimed() -> None:
    tracker = audited()
    before = picture(tracker)
    instance = instance_dict(1, vm_state="deleted")
    with pytest.raises(InvalidInput):
        tracker.begin_resource_claim(CONTEXT, instance)
    assert "host" not in instance
    assert picture(tracker) == before


@pytest.mark.behaviour("atomic-claim")
def test_an_instance_without_an_owner_gets_the_owner_of_the_context() -> None:
    tracker = audited()
    begun(tracker, instance_dict(1, project_id=None, user_id=None))
    begun(tracker, instance_dict(2))
    assert tracker.stats.num_instances_for_project("project-of-context") == 1
    assert tracker.tracked_instances[uuid(1)].user_id == "user-of-context"
    assert tracker.tracked_instances[uuid(2)].user_id == instance_dict(2)["user_id"]


@pytest.mark.behaviour("atomic-claim")
def test_a_context_may_be_an_object_or_none() -> None:
    class RequestContext:
        def to_dict(self) -> dict[str, str]:
            return {"tenant": "project-of-object", "user": "user-of-object"}

    tracker = audited()
    nobodys = {"project_id": None, "user_id": None}
    tracker.begin_resource_claim(RequestContext(), instance_dict(1, **nobodys))
    tracker.begin_resource_claim(None, instance_dict(2, **nobodys))
    projects = {key: held.project_id for key, held in tracker.tracked_instances.items()}
    assert projects == {uuid(1): "project-of-object", uuid(2): None}


@pytest.mark.behaviour("atomic-claim")
def test_with_missing_owner_refuse_a_claim_for_nobody_is_refused() -> None:
    tracker = audited(missing_owner="refuse")
    with pytest.raises(InvalidInput) as raised:
        tracker.begin_resource_claim(None, instance_dict(1, project_id=None))
    assert raised.value.kwargs["field"] == "instance.project_id"
    with pytest.raises(InvalidInput) as raised:
        tracker.resource_claim({}, memory_mb=1)
    assert raised.value.kwargs["field"] == "instance.project_id"
    with pytest.raises(InvalidInput) as raised:
        tracker.resize_claim(None, instance_dict(1, project_id=""), {"vcpus": 4})
    assert raised.value.kwargs["field"] == "instance.project_id"
    adoption = tracker.adopt(None, [instance_dict(1, vm_state="active", project_id=None)])
    assert [refusal["instance_uuid"] for refusal in adoption["refused"]] == [uuid(1)]
    assert tracker.tracked_instances == {}
    assert tracker.begin_resource_claim(CONTEXT, instance_dict(1, project_id=None)) is not None
    tracker.update_usage(CONTEXT, {"uuid": uuid(1), "project_id": None, "vm_state": "active"})
    assert tracker.tracked_instances[uuid(1)].project_id == CONTEXT["project_id"]
