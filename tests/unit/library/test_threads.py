# SPDX-License-Identifier: Apache-2.0
"""Many threads on one tracker, on several nodes of one store, and together with drivers that hang."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.builders import instance_dict, sized, uuid
from tests.support.deadline import SECONDS
from tests.support.store import at_once
from tests.support.tracker import CONTEXT, Arrivals, Clock, audited, driver, event_types, joined, used
from tracker_worker.errors import ClaimConflict
from tracker_worker.library.tracker import Claim, ResourceTracker
from tracker_worker.store.base import Commit, Store
from tracker_worker.store.memory import MemoryStore

THREADS = 8
EACH = 8


@pytest.mark.behaviour("exclusion-per-node")
def test_threads_on_one_tracker_are_granted_exactly_the_claims_that_fit(store: Store) -> None:
    tracker = audited(store=store)
    limits = {"memory_mb": 512 + 40 * 100}
    accepted: list[str] = []

    def work(thread: int) -> None:
        for number in range(thread * EACH, (thread + 1) * EACH):
            claim = tracker.begin_resource_claim(CONTEXT, instance_dict(number, **sized(1, 100, 1)), limits)
            if claim is not None:
                accepted.append(claim.instance.uuid)

    at_once(*(lambda thread=thread: work(thread) for thread in range(THREADS)))
    assert len(accepted) == 40
    assert used(tracker) == (40, 512 + 40 * 100, 40)
    assert sorted(tracker.claims) == sorted(accepted)
    assert event_types(store).count("tracker.claim.begun") == 40
    assert len(event_types(store)) == 1 + THREADS * EACH


@pytest.mark.behaviour("exclusion-per-node")
def test_threads_that_mix_all_operations_leave_exact_totals_and_never_exceed_a_limit(store: Store) -> None:
    names = ("node-1", "node-2", "node-3")
    driven = driver(*names)
    trackers = [audited(driven, node=name, store=store) for name in names]
    limits = {"vcpu": 6}
    over: list[int] = []
    held: list[dict[str, int]] = [{} for _ in trackers]
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            over.extend(vcpus for tracker in trackers if (vcpus := used(tracker)[0]) > 6)

    def work(thread: int) -> None:
        for number in range(thread * EACH, (thread + 1) * EACH):
            node = number % len(trackers)
            step(trackers[node], held[node], number)

    def step(tracker: ResourceTracker, kept: dict[str, int], number: int) -> None:
        instance = instance_dict(number, **sized(1, 10, 1))
        claim = tracker.begin_resource_claim(CONTEXT, instance, limits)
        if claim is None:
            tracker.update_available_resource(CONTEXT)
        elif number % 5 == 0:
            tracker.abort_resource_claim(CONTEXT, claim, instance)
        elif number % 5 == 1:
            tracker.finish_resource_claim(claim)
            tracker.update_usage(CONTEXT, {"uuid": claim.instance.uuid, "vm_state": "deleted"})
        elif number % 5 == 2:
            tracker.update_usage(CONTEXT, {"uuid": claim.instance.uuid, "memory_mb": 5})
            kept[claim.instance.uuid] = 5
        else:
            tracker.finish_resource_claim(claim)
            kept[claim.instance.uuid] = 10

    watcher = threading.Thread(daemon=True, target=watch)
    watcher.start()
    try:
        at_once(*(lambda thread=thread: work(thread) for thread in range(THREADS)))
    finally:
        done.set()
        joined(watcher)
    assert over == []
    for tracker, kept in zip(trackers, held, strict=True):
        assert sorted(tracker.tracked_instances) == sorted(kept)
        assert used(tracker) == (len(kept), 512 + sum(kept.values()), len(kept))
    # The store holds the whole state: new trackers read the same usage.
    again = [audited(driven, node=name, store=store) for name in names]
    assert [used(tracker) for tracker in again] == [used(tracker) for tracker in trackers]


@pytest.mark.behaviour("exclusion-per-node")
def test_several_trackers_of_one_node_keep_its_limit_together(store: Store) -> None:
    trackers = [audited(store=store) for _ in range(3)]
    limits = {"vcpu": 10}

    def work(which: int) -> int:
        numbers = range(which * EACH, (which + 1) * EACH)
        begun = (
            trackers[which].begin_resource_claim(CONTEXT, instance_dict(number, **sized(1)), limits)
            for number in numbers
        )
        return sum(claim is not None for claim in begun)

    assert sum(at_once(*(lambda which=which: work(which) for which in range(3)))) == 10
    assert [used(tracker)[0] for tracker in trackers] == [10, 10, 10]


@pytest.mark.behaviour("repeated-claim")
def test_one_of_two_nodes_that_claim_an_instance_at_the_same_time_gets_it(store: Store) -> None:
    driven = driver("node-1", "node-2")
    trackers = [audited(driven, node=name, store=store) for name in driven.nodes]

    def claim(tracker: ResourceTracker, number: int) -> Claim | ClaimConflict | None:
        try:
            return tracker.begin_resource_claim(CONTEXT, instance_dict(number))
        except ClaimConflict as conflict:
            return conflict

    for number in range(EACH):
        results = at_once(*(lambda tracker=tracker: claim(tracker, number) for tracker in trackers))  # noqa: B023
        assert sorted(type(result).__name__ for result in results) == ["Claim", "ClaimConflict"]
    charged = [uuid for tracker in trackers for uuid in tracker.tracked_instances]
    assert sorted(charged) == [uuid(number) for number in range(EACH)]


class GatedStore(MemoryStore):
    """A store that blocks commits while ``closed`` until ``opened`` is set, and records the charged instances in order."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.charged: list[str] = []

    def commit(self, commit: Commit) -> None:
        if self.closed:
            self.entered.set()
            assert self.opened.wait(SECONDS)
        super().commit(commit)
        self.charged += [held.uuid for ledger in commit.ledgers for held in ledger.touched.values() if held is not None]


@pytest.mark.behaviour("exclusion-per-node")
def test_claims_are_served_in_order_of_arrival() -> None:
    store = GatedStore()
    tracker = audited(store=store)
    arrivals = tracker._lock._waiting = Arrivals()
    store.closed = True
    numbers = [5, 3, 8, 1, 9, 2, 7]
    threads = []
    try:
        for number in numbers:
            thread = threading.Thread(
                daemon=True, target=tracker.begin_resource_claim, args=(CONTEXT, instance_dict(number))
            )
            threads.append(thread)
            thread.start()
            # The first thread is blocked in its commit and holds the lock of the node; the other threads queue for the lock.
            if number == numbers[0]:
                assert store.entered.wait(SECONDS)
            else:
                arrivals.next()
    finally:
        store.opened.set()
    joined(*threads)
    assert store.charged == [uuid(number) for number in numbers]


@pytest.mark.behaviour("exclusion-per-node")
def test_a_commit_that_hangs_on_one_node_delays_no_other_node() -> None:
    store = GatedStore()
    driven = driver("node-1", "node-2")
    first, second = (audited(driven, node=name, store=store) for name in driven.nodes)
    store.closed = True
    stuck = threading.Thread(daemon=True, target=first.begin_resource_claim, args=(CONTEXT, instance_dict(1)))
    stuck.start()
    try:
        assert store.entered.wait(SECONDS)
        store.closed = False
        assert second.begin_resource_claim(CONTEXT, instance_dict(2)) is not None
        assert stuck.is_alive()
    finally:
        store.opened.set()
        joined(stuck)
    assert list(first.claims) == [uuid(1)]


@pytest.mark.behaviour("exclusion-per-node")
def test_a_driver_that_hangs_delays_no_claim_of_any_node(store: Store) -> None:
    driven = driver("node-1", "node-2")
    first, second = (audited(driven, node=name, store=store) for name in driven.nodes)
    hang = driven.hang("node-1")
    stuck = threading.Thread(daemon=True, target=first.update_available_resource, args=(CONTEXT,))
    stuck.start()
    try:
        assert hang.entered.wait(SECONDS)
        for number, tracker in enumerate((first, second)):
            kept, gone = instance_dict(2 * number), instance_dict(2 * number + 1)
            with tracker.resource_claim(CONTEXT, kept):
                aborted = tracker.begin_resource_claim(CONTEXT, gone)
                tracker.abort_resource_claim(CONTEXT, aborted, gone)
            tracker.update_usage(CONTEXT, {"uuid": kept["uuid"], "vm_state": "active"})
            assert used(tracker) == (2, 4608, 50)
        second.update_available_resource(CONTEXT)
        assert stuck.is_alive()
    finally:
        hang.release()
        joined(stuck)
    assert used(first) == (2, 4608, 50)


@pytest.mark.behaviour("exclusion-per-node")
def test_a_driver_is_read_once_at_a_time_for_a_node_and_its_last_answer_counts() -> None:
    driven = driver()
    tracker = audited(driven)
    waiting = tracker._auditing._waiting = Arrivals()
    hang = driven.hang("node-1")
    audits = [
        threading.Thread(daemon=True, target=tracker.update_available_resource, args=(CONTEXT,)) for _ in range(3)
    ]
    audits[0].start()
    try:
        assert hang.entered.wait(SECONDS)
        for audit in audits[1:]:
            audit.start()
            waiting.next()
        assert driven.calls == ["node-1"] * 2
    finally:
        hang.release()
    joined(*audits)
    assert driven.calls == ["node-1"] * 4


@pytest.mark.behaviour("exclusion-per-node")
def test_claims_that_are_finished_while_they_expire_end_once(store: Store) -> None:
    clock = Clock()
    tracker = audited(store=store, clock=clock, expired_claims="release")
    numbers = range(THREADS)
    for number in numbers:
        tracker.begin_resource_claim(CONTEXT, instance_dict(number))
    clock.at += 601
    works: list[Any] = [lambda number=number: tracker.finish_resource_claim(uuid(number)) for number in numbers]
    at_once(*works, lambda: tracker.update_available_resource(CONTEXT))
    events = event_types(store)
    finished, expired = events.count("tracker.claim.finished"), events.count("tracker.claim.expired")
    assert finished + expired == THREADS
    assert tracker.claims == {}
    assert used(tracker) == (2 * finished, 512 + 4096 * finished, 50 * finished)
