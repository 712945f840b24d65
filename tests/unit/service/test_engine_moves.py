# SPDX-License-Identifier: Apache-2.0
"""Moves of one instance that begin at the same time on two hosts: one begins, and the rest of each batch goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import instance_dict, node_name, uuid
from tests.support.caller import Call, Refused
from tests.support.engine import EngineHarness
from tests.support.scripted import Clock
from tests.unit.service.conftest import MakeHarness
from tracker_worker.domain.allocation import INCOMING
from tracker_worker.store.base import Conflict, Store
from tracker_worker.store.memory import MemoryStore
from tracker_worker.store.sql.store import SQLStore

N1 = node_name(1)
ONE, TWO = "host-1", "host-2"


def begin_move(worker: EngineHarness, host: str, move_id: str, number: int = 1, **limits: float) -> Call:
    move = {"id": move_id, "kind": "migration", "from_host": "host-9", "from_node": None}
    more: dict[str, Any] = {"limits": limits} if limits else {}
    return worker.caller.call(
        "begin_move_claim", source=host, instance=instance_dict(number, node=N1), move=move, **more
    )


def begin_claim(worker: EngineHarness, host: str, number: int) -> Call:
    return worker.caller.call("begin_resource_claim", source=host, instance=instance_dict(number, node=N1))


def incoming(worker: EngineHarness) -> list[tuple[str, str]]:
    """(host, uuid) of what is incoming, in the store."""
    found = []
    for host in (ONE, TWO):
        for node in worker.ledger(host):
            found += [(host, uuid_) for uuid_, role in node.moving if role == INCOMING]
    return found


def conflict(host: str) -> Refused:
    reason = f"a move of it to node {N1} of host {host} has begun"
    return Refused("ClaimConflict", {"instance_uuid": uuid(1), "node": N1, "reason": reason})


class TestOneBatch:
    @pytest.fixture
    def worker(self, make_harness: MakeHarness) -> EngineHarness:
        return make_harness(hosts=[ONE, TWO]).start()

    def test_of_two_moves_the_second_one_is_a_conflict_and_the_rest_is_decided(self, worker: EngineHarness) -> None:
        with worker.busy():
            calls = [
                begin_move(worker, ONE, "m1"),
                begin_claim(worker, TWO, 2),
                begin_move(worker, TWO, "m2"),
                begin_move(worker, TWO, "m3", number=3),
            ]
            worker.store.commits.clear()
        first, claim, second, third = (call.reply() for call in calls)
        assert (first["state"], claim["state"], third["state"]) == ("begun", "begun", "begun")
        assert second == conflict(ONE)
        assert incoming(worker) == [(ONE, uuid(1)), (TWO, uuid(3))]
        assert worker.counters.snapshot()["conflicts"] == 0
        events = [kind for commit in worker.store.commits for kind in commit.events]
        assert events == ["tracker.move.begun", "tracker.claim.begun", "tracker.move.begun"]

    def test_a_move_that_was_refused_is_none(self, worker: EngineHarness) -> None:
        with worker.busy():
            refused, begun = begin_move(worker, ONE, "m1", vcpu=1), begin_move(worker, TWO, "m2")
        assert refused.reply().error == "ComputeResourcesUnavailable"
        assert begun.reply()["state"] == "begun"
        assert incoming(worker) == [(TWO, uuid(1))]

    def test_a_repeated_begin_of_a_move_that_has_ended_is_none(self, worker: EngineHarness) -> None:
        begin_move(worker, ONE, "m1").reply()
        worker.caller.call("abort_move", source=ONE, move_id="m1").reply()
        with worker.busy():
            repeated, begun = begin_move(worker, ONE, "m1"), begin_move(worker, TWO, "m2")
        assert (repeated.reply()["state"], begun.reply()["state"]) == ("aborted", "begun")

    def test_one_that_began_earlier_is_seen_until_it_has_ended(self, worker: EngineHarness) -> None:
        begin_move(worker, ONE, "m1").reply()
        assert begin_move(worker, TWO, "m2").reply() == conflict(ONE)
        assert begin_move(worker, ONE, "m1").reply()["state"] == "begun"
        worker.caller.call("abort_move", source=ONE, move_id="m1").reply()
        assert begin_move(worker, TWO, "m2").reply()["state"] == "begun"
        assert incoming(worker) == [(TWO, uuid(1))]


@contextmanager
def _stores(kind: str, directory: Path, clock: Clock) -> Iterator[tuple[Store, Store]]:
    """Two workers' stores on the same data."""
    if kind == "memory":
        store = MemoryStore(now=clock)
        yield store, store
        return
    stores = [SQLStore(f"sqlite:///{directory}/ledger.sqlite") for _ in range(2)]
    for store_ in stores:
        store_.start()
    try:
        yield stores[0], stores[1]
    finally:
        for store_ in stores:
            store_.stop()


class TestTwoWorkers:
    @pytest.fixture(params=["memory", "sqlite"])
    def workers(
        self, request: pytest.FixtureRequest, make_harness: MakeHarness, tmp_path: Path
    ) -> Iterator[tuple[EngineHarness, EngineHarness]]:
        clock = Clock()
        with _stores(request.param, tmp_path, clock) as stores:
            one = make_harness(store=stores[0], hosts=[ONE], owner="worker-1", clock=clock).start()
            two = make_harness(store=stores[1], hosts=[TWO], owner="worker-2", clock=clock).start()
            yield one, two
            one.stop()
            two.stop()

    @pytest.mark.parametrize("lost_races", [0, 2])
    def test_the_one_that_commits_second_is_a_conflict_and_its_batch_goes_on(
        self, workers: tuple[EngineHarness, EngineHarness], lost_races: int
    ) -> None:
        """The other worker is first after this one has looked, and before it commits."""
        one, two = workers
        begun: list[Any] = []
        method = "commit" if lost_races == 0 else "locked"
        one.store.script[method] = [lambda: begun.append(begin_move(two, TWO, "m2").reply())]
        if lost_races:
            one.store.script["commit"] = [Conflict("a lost race") for _ in range(lost_races)]
        with one.busy():
            calls = [begin_claim(one, ONE, 2), begin_move(one, ONE, "m1"), begin_move(one, ONE, "m3", number=3)]
        claim, late, other = (call.reply() for call in calls)
        assert [told["state"] for told in (*begun, claim, other)] == ["begun", "begun", "begun"]
        assert late == conflict(TWO)
        assert incoming(one) == [(ONE, uuid(3)), (TWO, uuid(1))]
        assert one.charged(ONE) == [uuid(2)]
        assert one.notified() == [("claim.begun", 2), ("move.begun", 3)]
        assert one.unsettled() == 0
