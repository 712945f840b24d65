# SPDX-License-Identifier: Apache-2.0
"""``resource_claim``: a claim around a build."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import HOST, instance_dict, uuid
from tests.support.tracker import (
    CONTEXT,
    Clock,
    FailingMemoryStore,
    audited,
    driver,
    event_types,
    picture,
    used,
)
from tracker_worker.errors import ComputeResourcesUnavailable, InvalidInput, StoreUnavailable
from tracker_worker.store.memory import MemoryStore


class BuildFailed(Exception):
    pass


@pytest.mark.behaviour("claim-context-manager")
def test_the_block_gets_the_claim_and_finishes_it_on_exit() -> None:
    tracker = audited()
    instance = instance_dict(1)
    with tracker.resource_claim(CONTEXT, instance) as claim:
        assert claim is not None
        assert tracker.claims == {uuid(1): claim}
        assert instance["host"] == HOST
    assert tracker.claims == {}
    assert used(tracker) == (2, 4608, 50)
    assert instance["host"] == HOST


@pytest.mark.behaviour("claim-context-manager", "abort-releases")
@pytest.mark.parametrize("error", [BuildFailed, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_any_exception_in_the_block_aborts_the_claim_clears_the_instance_and_propagates(
    error: type[BaseException],
) -> None:
    tracker = audited()
    instance = instance_dict(1)
    with pytest.raises(error), tracker.resource_claim(CONTEXT, instance):
        raise error
    assert (tracker.claims, tracker.tracked_instances, used(tracker)) == ({}, {}, (0, 512, 0))
    assert (instance["host"], instance["node"], instance["launched_on"]) == (None, None, None)


@pytest.mark.behaviour("claim-context-manager")
def test_the_claim_is_taken_at_the_call_and_not_on_entry() -> None:
    tracker = audited()
    manager = tracker.resource_claim(CONTEXT, instance_dict(1))
    assert list(tracker.claims) == [uuid(1)]
    tracker.abort_resource_claim(CONTEXT, manager.claim)
    with manager as claim:
        assert claim is not None


@pytest.mark.behaviour("claim-context-manager")
def test_a_refusal_is_decided_at_the_call_and_raised_on_entry() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    manager = tracker.resource_claim(CONTEXT, instance_dict(2), {"vcpu": 3})
    assert event_types(store)[-1] == "tracker.claim.rejected"
    tracker.update_usage(CONTEXT, instance_dict(1, vm_state="deleted"))
    ran = []
    with pytest.raises(ComputeResourcesUnavailable) as raised, manager:
        ran.append(1)
    assert ran == []
    assert raised.value.kwargs["shortfalls"] == [{"resource": "VCPU", "requested": 2, "used": 2, "limit": 3}]
    assert tracker.tracked_instances == {}


@pytest.mark.behaviour("claim-context-manager")
def test_a_tracker_that_is_disabled_within_the_block_neither_finishes_nor_aborts() -> None:
    driven = driver()
    tracker = audited(driven)
    answer = driven.nodes["node-1"]
    with tracker.resource_claim(CONTEXT, instance_dict(1)):
        driven.nodes["node-1"] = None
        tracker.update_available_resource(CONTEXT)
    driven.nodes["node-1"] = answer
    tracker.update_available_resource(CONTEXT)
    assert list(tracker.claims) == [uuid(1)]


@pytest.mark.behaviour("claim-context-manager")
def test_sizes_without_an_instance_are_claimed_under_a_generated_id() -> None:
    tracker = audited()
    with (
        tracker.resource_claim(CONTEXT, memory_mb=100, disk_gb=7, vcpus=3) as first,
        tracker.resource_claim(CONTEXT, memory_mb=1) as second,
    ):
        assert first is not None
        assert second is not None
        assert (first.memory_mb, first.disk_gb, first.vcpus) == (100, 7, 3)
        assert (second.memory_mb, second.disk_gb, second.vcpus) == (1, 0, 0)
        assert set(tracker.claims) == {first.claim_id, second.claim_id} == {first.instance.uuid, second.instance.uuid}
        assert used(tracker) == (3, 613, 7)
    assert (tracker.claims, used(tracker)) == ({}, (3, 613, 7))
    with pytest.raises(BuildFailed), tracker.resource_claim(CONTEXT, vcpus=5):
        raise BuildFailed
    assert used(tracker) == (3, 613, 7)


@pytest.mark.behaviour("claim-context-manager")
def test_sizes_without_an_instance_are_limited_like_an_instance() -> None:
    tracker = audited()
    with pytest.raises(ComputeResourcesUnavailable), tracker.resource_claim(CONTEXT, None, {"vcpu": 2}, vcpus=3):
        pass
    assert used(tracker) == (0, 512, 0)


@pytest.mark.behaviour("size-values")
@pytest.mark.parametrize("field", ["memory_mb", "disk_gb", "vcpus"])
@pytest.mark.parametrize("value", [-1, None, 1.0, True, float("nan"), 2**53 + 1, "1"])
def test_an_invalid_size_is_named_as_the_caller_passed_it(field: str, value: Any) -> None:
    tracker = audited()
    with pytest.raises(InvalidInput) as raised:
        tracker.resource_claim(CONTEXT, **{field: value})
    assert raised.value.kwargs["field"] == field
    assert tracker.claims == {}


@pytest.mark.behaviour("claim-context-manager")
def test_an_invalid_limit_is_raised_at_the_call() -> None:
    tracker = audited()
    with pytest.raises(InvalidInput):
        tracker.resource_claim(CONTEXT, instance_dict(1), {"memory": 1})
    assert tracker.claims == {}


@pytest.mark.behaviour("claim-context-manager")
def test_a_block_that_outlives_its_claim_ends_nothing_a_second_time() -> None:
    clock = Clock()
    store = MemoryStore()
    tracker = audited(clock=clock, store=store)
    instance = instance_dict(1)
    seen: list[object] = []

    def build() -> None:
        with tracker.resource_claim(CONTEXT, instance):
            clock.at += 601
            tracker.update_available_resource(CONTEXT)
            seen.append((event_types(store), picture(tracker)))
            raise BuildFailed

    with pytest.raises(BuildFailed):
        build()
    assert seen == [(event_types(store), picture(tracker))]
    # The instance of an expired claim is assumed to be built, so it keeps its host.
    assert instance["host"] == HOST


@pytest.mark.behaviour("claim-context-manager")
def test_an_abort_that_fails_does_not_replace_the_exception_of_the_block(caplog: pytest.LogCaptureFixture) -> None:
    store = FailingMemoryStore()
    tracker = audited(store=store)
    manager = tracker.resource_claim(CONTEXT, instance_dict(1))
    store.failing = True
    with pytest.raises(BuildFailed), manager:
        raise BuildFailed
    assert [uuid(1) in record.getMessage() for record in caplog.records] == [True]
    assert list(tracker.claims) == [uuid(1)]


@pytest.mark.behaviour("claim-context-manager")
def test_a_finish_that_fails_raises_on_exit() -> None:
    store = FailingMemoryStore()
    tracker = audited(store=store)
    with pytest.raises(StoreUnavailable), tracker.resource_claim(CONTEXT, instance_dict(1)):
        store.failing = True
    assert list(tracker.claims) == [uuid(1)]
