# SPDX-License-Identifier: Apache-2.0
"""Resizes and moves of a tracker."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import HOST, driver_resource_dict, instance_dict, uuid
from tests.support.tracker import CONTEXT, Clock, audited, conf, used
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable, InvalidInput, MoveNotFound
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.library.moves import MoveClaim
from tracker_worker.library.tracker import ResourceTracker
from tracker_worker.store.base import Store

SMALL, LARGE, BOTH = (2, 4096 + 512, 50), (8, 8192 + 512, 80), (10, 4096 + 8192 + 512, 130)
SIZES = {"memory_mb": 8192, "root_gb": 70, "ephemeral_gb": 10, "vcpus": 8}


@pytest.fixture
def tracker(store: Store) -> ResourceTracker:
    """A tracker that is charged for the first instance."""
    made = audited(store=store)
    with made.resource_claim(CONTEXT, instance_dict(1)):
        pass
    return made


def test_a_resize_charges_both_sizes_until_it_is_confirmed(tracker: ResourceTracker) -> None:
    move = tracker.resize_claim(CONTEXT, instance_dict(1), SIZES)
    assert (move.vcpus, move.memory_mb, move.disk_gb) == (8, 8192, 80)
    assert used(tracker) == BOTH
    assert tracker.tracked_moves == {uuid(1): move}
    tracker.finish_resize(CONTEXT, move)
    assert used(tracker) == BOTH
    assert tracker.tracked_instances[uuid(1)].vcpus == 8
    assert tracker.stats.num_instances == 1
    tracker.confirm_resize(CONTEXT, move)
    tracker.confirm_resize(CONTEXT, move.move_id)
    assert used(tracker) == LARGE
    assert tracker.tracked_moves == {}


def test_a_revert_is_never_refused(tracker: ResourceTracker) -> None:
    move = tracker.resize_claim(CONTEXT, instance_dict(1), {**SIZES, "vcpus": 1})
    tracker.finish_resize(CONTEXT, move)
    neighbour = tracker.begin_resource_claim(CONTEXT, instance_dict(2, vcpus=29), {"vcpu": 32})
    assert neighbour is not None
    tracker.revert_resize(CONTEXT, move)
    assert used(tracker)[0] == 2 + 29
    assert tracker.tracked_instances[uuid(1)].vcpus == 2


def test_a_resize_beyond_the_limits_is_refused_with_every_shortfall(tracker: ResourceTracker) -> None:
    with pytest.raises(ComputeResourcesUnavailable) as refused:
        tracker.resize_claim(CONTEXT, instance_dict(1), SIZES, {"vcpu": 9, "memory_mb": 8192})
    assert [each["resource"] for each in refused.value.kwargs["shortfalls"]] == ["VCPU", "MEMORY_MB"]
    assert used(tracker) == SMALL
    assert tracker.tracked_moves == {}


def test_an_exception_in_the_block_aborts_the_move(tracker: ResourceTracker) -> None:
    with pytest.raises(KeyError), tracker.resize_claim(CONTEXT, instance_dict(1), SIZES):
        raise KeyError
    assert used(tracker) == SMALL
    with tracker.resize_claim(CONTEXT, instance_dict(1), SIZES) as move:
        pass
    assert used(tracker) == BOTH
    move.abort()
    assert used(tracker) == SMALL


def test_what_is_handed_over_is_not_aborted(tracker: ResourceTracker) -> None:
    move = tracker.resize_claim(CONTEXT, instance_dict(1), SIZES)
    tracker.finish_resize(CONTEXT, move)
    with pytest.raises(ClaimConflict, match="handed over"):
        tracker.abort_resize(CONTEXT, move)


def test_one_move_of_an_instance_at_a_time(tracker: ResourceTracker) -> None:
    tracker.resize_claim(CONTEXT, instance_dict(1), SIZES)
    with pytest.raises(ClaimConflict, match="another move"):
        tracker.resize_claim(CONTEXT, instance_dict(1), SIZES)


def test_a_disabled_tracker_gives_a_move_of_zeros(store: Store) -> None:
    tracker = ResourceTracker(HOST, FakeDriver(HOST, conf(), nodes={}), store=store, conf=conf(), clock=Clock())
    with tracker.resize_claim(CONTEXT, instance_dict(1), SIZES, move_id="m1") as move:
        assert (move.move_id, move.vcpus, move.memory_mb, move.disk_gb) == ("m1", 0, 0, 0)
    tracker.finish_resize(CONTEXT, move)
    assert tracker.tracked_moves == {}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"kind": "copy"}, "kind"),
        ({"move_id": ""}, "move_id"),
        ({"from_host": 3}, "from_host"),
        ({"timeout": -1}, "timeout"),
        ({"limits": {"vcpus": 3}}, "limits.vcpus"),
    ],
)
def test_what_is_wrong_is_named(tracker: ResourceTracker, wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        tracker.resize_claim(CONTEXT, instance_dict(1), SIZES, **wrong)
    assert refused.value.kwargs["field"] == field
    assert used(tracker) == SMALL


def test_an_unknown_move_is_not_found(tracker: ResourceTracker) -> None:
    for step in (tracker.finish_resize, tracker.confirm_resize, tracker.revert_resize, tracker.abort_resize):
        with pytest.raises(MoveNotFound):
            step(CONTEXT, "unknown")


def test_a_migration_between_two_hosts_of_a_ledger(tracker: ResourceTracker, store: Store) -> None:
    driver = FakeDriver("host-2", conf(), nodes={"node-2": driver_resource_dict()})
    destination = ResourceTracker("host-2", driver, store=store, conf=conf(), clock=Clock())
    destination.update_available_resource(CONTEXT)
    move = destination.resize_claim(CONTEXT, instance_dict(1), SIZES, kind="migration", from_host=HOST)
    with pytest.raises(ClaimConflict, match="has begun"):
        tracker.resize_claim(CONTEXT, instance_dict(1), SIZES)
    destination.finish_resize(CONTEXT, move)
    tracker.finish_resize(CONTEXT, move)
    assert (used(destination), used(tracker)) == (LARGE, SMALL)
    assert (destination.stats.num_instances, tracker.stats.num_instances) == (1, 0)
    assert tracker.tracked_moves == {uuid(1): MoveClaim(move.move_id, 8192, 80, 8, print)}
    tracker.confirm_resize(CONTEXT, move)
    assert used(tracker) == (0, 512, 0)
