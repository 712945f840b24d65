# SPDX-License-Identifier: Apache-2.0
"""Arguments are checked before any change, and results are copies."""

from __future__ import annotations

import copy
from types import MappingProxyType
from typing import Any

import pytest

from tests.support.builders import NODE, driver_resource_dict, instance_dict, uuid
from tests.support.tracker import CONTEXT, audited, driver, event_types, picture
from tracker_worker.errors import InvalidInput
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.store.base import Store
from tracker_worker.store.memory import MemoryStore

NO_SIZES: list[Any] = [-1, None, 1.0, True, float("nan"), float("inf"), 2**53 + 1, "1", []]


@pytest.mark.behaviour("size-values")
@pytest.mark.parametrize("size", ["memory_mb", "root_gb", "ephemeral_gb", "vcpus"])
@pytest.mark.parametrize("value", NO_SIZES)
def test_an_invalid_size_is_named_and_changes_nothing(size: str, value: Any) -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    before = picture(tracker), event_types(store)
    instance = instance_dict(1, **{size: value})
    with pytest.raises(InvalidInput) as raised:
        tracker.begin_resource_claim(CONTEXT, instance)
    assert raised.value.kwargs["field"] == f"instance.{size}"
    assert "host" not in instance
    assert (picture(tracker), event_types(store)) == before


@pytest.mark.behaviour("limit-values", "limit-keys")
@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"memory": 1}, "limits.memory"),
        ({"vcpus": 1}, "limits.vcpus"),
        ({"vcpu": float("nan")}, "limits.vcpu"),
        ({"disk_gb": float("inf")}, "limits.disk_gb"),
        ({"memory_mb": -1}, "limits.memory_mb"),
        ({"memory_mb": "1"}, "limits.memory_mb"),
        ([], "limits"),
    ],
)
def test_an_invalid_limit_is_named_and_changes_nothing(limits: Any, field: str) -> None:
    tracker = audited()
    before = copy.deepcopy(picture(tracker))
    with pytest.raises(InvalidInput) as raised:
        tracker.begin_resource_claim(CONTEXT, instance_dict(1), limits)
    assert raised.value.kwargs["field"] == field
    assert picture(tracker) == before


@pytest.mark.behaviour("limit-values")
def test_a_float_limit_is_rounded_down() -> None:
    tracker = audited()
    assert tracker.begin_resource_claim(CONTEXT, instance_dict(1), {"memory_mb": 4607.999}) is None
    assert tracker.begin_resource_claim(CONTEXT, instance_dict(1), {"memory_mb": 4608.001}) is not None


@pytest.mark.behaviour("option-defaults")
@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan"), float("inf"), True, "1", 2**31 + 1])
def test_a_timeout_that_is_negative_or_not_a_finite_number_is_invalid(timeout: Any) -> None:
    tracker = audited()
    with pytest.raises(InvalidInput) as raised:
        tracker.begin_resource_claim(CONTEXT, instance_dict(1), timeout=timeout)
    assert raised.value.kwargs["field"] == "timeout"
    assert tracker.claims == {}


@pytest.mark.behaviour("atomic-claim")
@pytest.mark.parametrize("instance", [None, "uuid", [], {}, {"uuid": ""}, MappingProxyType(instance_dict(1))])
def test_an_object_that_is_not_an_instance_or_cannot_take_a_host_is_not_charged(instance: Any) -> None:
    tracker = audited()
    before = copy.deepcopy(picture(tracker))
    with pytest.raises(InvalidInput) as raised:
        tracker.begin_resource_claim(CONTEXT, instance)
    assert raised.value.kwargs["field"].startswith("instance")
    assert picture(tracker) == before


@pytest.mark.behaviour("copies-only")
def test_everything_that_a_tracker_returns_is_a_copy(store: Store) -> None:
    tracker = audited(store=store)
    instance = instance_dict(1, metadata={"nested": {"deep": [1]}})
    claim = tracker.begin_resource_claim(CONTEXT, instance)
    assert claim is not None
    before = copy.deepcopy(picture(tracker))

    view = tracker.compute_node
    assert view is not None
    view["cpu_info"]["topology"]["cores"] = 99
    view["stats"]["num_instances"] = 99
    view.clear()
    tracker.claims.clear()
    tracked = tracker.tracked_instances
    held: Any = tracked.pop(uuid(1))
    held.metadata["nested"]["deep"].append(2)
    held.image_meta.clear()
    claimed: Any = claim.instance
    claimed.metadata.clear()
    tracker.stats.add(held)

    assert picture(tracker) == before
    # The stored state is unchanged too: a new tracker reads all of it.
    assert picture(audited(store=store)) == before


@pytest.mark.behaviour("copies-only")
def test_a_caller_may_change_its_arguments_afterwards_without_an_effect(store: Store) -> None:
    reported = driver_resource_dict()
    tracker = audited(FakeDriver("host-1", nodes={NODE: reported}), store=store)
    instance = instance_dict(1, metadata={"nested": {"deep": [1]}})
    limits = {"memory_mb": 5000}
    claim = tracker.begin_resource_claim(CONTEXT, instance, limits)
    changes: dict[str, Any] = {"uuid": uuid(1), "image_meta": {"properties": {"os": "linux"}}}
    tracker.update_usage(CONTEXT, changes)
    before = copy.deepcopy(picture(tracker))

    reported["cpu_info"]["topology"]["cores"] = 99
    instance["metadata"]["nested"]["deep"].append(2)
    changes["image_meta"]["properties"].clear()
    instance.clear()
    limits.clear()

    assert picture(tracker) == before
    assert picture(audited(store=store)) == before
    tracker.abort_resource_claim(CONTEXT, claim)
    assert tracker.tracked_instances == {}


@pytest.mark.behaviour("copies-only")
def test_a_tracker_does_not_change_the_answers_of_its_driver() -> None:
    driven = driver()
    tracker = audited(driven)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    tracker.update_available_resource(CONTEXT)
    assert driven.nodes[NODE] == driver_resource_dict()
