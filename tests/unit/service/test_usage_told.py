# SPDX-License-Identifier: Apache-2.0
"""What is told of a period: to whom each second belongs, and what is learned of it after it was closed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.builders import HOST, NOW, instance_dict, node_name, uuid
from tests.support.engine import EngineHarness
from tests.support.scripted import Clock
from tests.support.store import ALL, Writer
from tests.unit.service.conftest import MakeHarness
from tracker_worker.domain.commands import RetireNode
from tracker_worker.domain.values import SECOND

N1, N2 = node_name(1), node_name(2)
OTHER_HOST = "host-2"
HOUR = 3600
FIRST = instance_dict()["project_id"]
SECOND_OWNER = "another-project"


@pytest.fixture
def clock() -> Clock:
    """It begins at noon, with the first period."""
    assert NOW % (HOUR * SECOND) == 0
    return Clock()


@pytest.fixture
def worker(make_harness: MakeHarness, clock: Clock) -> EngineHarness:
    """Two hosts with two nodes each."""
    return make_harness(hosts=[HOST, OTHER_HOST], nodes=2, clock=clock).start()


def call(worker: EngineHarness, method: str, host: str = HOST, **arguments: Any) -> Any:
    return worker.caller.call(method, source=host, **arguments).reply()


def claim(worker: EngineHarness, number: int = 1) -> None:
    call(worker, "begin_resource_claim", instance=instance_dict(number, node=N1), timeout=86400)


def change(worker: EngineHarness, **fields: Any) -> None:
    assert call(worker, "update_usage", instance={"uuid": uuid(1), **fields})["changed"]


def at(clock: Clock, seconds: float) -> None:
    """Go on to so many seconds after noon."""
    clock.forward(seconds - clock.monotonic())


def retire(worker: EngineHarness, clock: Clock, node: str) -> None:
    Writer(worker.store.inner).put(RetireNode(node=node, reason="gone"), clock()).commit()


def close(worker: EngineHarness, steps: int = 20) -> None:
    worker.engine.close_periods()
    for _ in range(steps):
        worker.finish()


def told(worker: EngineHarness, ending: int, host: str = HOST, node: str = N1) -> list[dict[str, Any]]:
    """The exists of the period that ends so many seconds after noon; its end has their sums."""
    (stream,) = [stream for stream in worker.store.inner.streams(host) if stream.node == node]
    rows = worker.store.inner.outbox(stream.id, after=0, limit=ALL)
    of_period = [
        (row.event_type, payload)
        for row in rows
        if (payload := json.loads(row.payload)).get("audit_period_ending") == time(ending)
    ]
    *exists, (event_type, closed) = of_period
    assert event_type == "tracker.period.closed"
    assert {event_type for event_type, _ in exists} <= {"tracker.usage.exists"}
    assert closed["exists"] == len(exists)
    assert closed["seconds"] == sum(payload["seconds"] for _, payload in exists)
    assert closed["resource_seconds"]["VCPU"] == sum(payload["resource_seconds"]["VCPU"] for _, payload in exists)
    return [payload for _, payload in exists]


def is_told(worker: EngineHarness, ending: int, node: str = N1) -> bool:
    """Whether the period that ends so many seconds after noon is closed."""
    (stream,) = [stream for stream in worker.store.inner.streams(HOST) if stream.node == node]
    rows = worker.store.inner.outbox(stream.id, after=0, limit=ALL)
    return any(json.loads(row.payload).get("audit_period_ending") == time(ending) for row in rows)


def time(seconds: int) -> str:
    return f"2026-01-15T{12 + seconds // HOUR:02}:{seconds % HOUR // 60:02}:{seconds % 60:02}Z"


def segments(payload: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(each["from"], each["to"], each["resources"]["VCPU"]) for each in payload["segments"]]


@pytest.mark.behaviour("usage-by-time")
def test_each_owner_is_told_what_it_was_charged(worker: EngineHarness, clock: Clock) -> None:
    claim(worker)
    at(clock, 100)
    change(worker, project_id=SECOND_OWNER)
    at(clock, 300)
    change(worker, project_id=FIRST, user_id="another-user")
    at(clock, HOUR)
    close(worker)
    first, second = told(worker, HOUR)
    assert [(one["tenant_id"], one["seconds"]) for one in (first, second)] == [(FIRST, HOUR - 200), (SECOND_OWNER, 200)]
    assert segments(first) == [(time(0), time(100), 2), (time(300), time(HOUR), 2)]
    assert segments(second) == [(time(100), time(300), 2)]
    assert [(one["charged"]["VCPU"], one["role"]) for one in (first, second)] == [(2, "instance"), (0, "")]


@pytest.mark.behaviour("usage-by-time")
def test_each_node_tells_what_it_was_charged_for_an_instance_that_has_moved(
    worker: EngineHarness, clock: Clock
) -> None:
    claim(worker)
    at(clock, 60)
    target = instance_dict(1, node=N2, vcpus=8)
    call(worker, "begin_move_claim", instance=target, move={"id": "m1", "kind": "resize"}, timeout=86400)
    at(clock, 100)
    call(worker, "finish_move", move_id="m1")
    at(clock, HOUR)
    close(worker)
    (source,), (destination,) = told(worker, HOUR), told(worker, HOUR, node=N2)
    assert segments(source) == [(time(0), time(100), 2)]
    assert segments(destination) == [(time(100), time(HOUR), 8)]
    # What is on hold for a revert is nobody's bill.
    at(clock, 2 * HOUR)
    close(worker)
    assert told(worker, 2 * HOUR) == []


@pytest.mark.behaviour("usage-by-time")
def test_what_lies_within_one_second_has_no_part_in_the_bill(worker: EngineHarness, clock: Clock) -> None:
    at(clock, 0.25)
    claim(worker)
    at(clock, 0.5)
    change(worker, vcpus=4)
    at(clock, 0.75)
    change(worker, vcpus=8)
    at(clock, 2.5)
    change(worker, vm_state="deleted")
    at(clock, 2.75)
    claim(worker, 2)
    call(worker, "abort_resource_claim", claim_id=uuid(2))
    at(clock, HOUR)
    close(worker)
    (only,) = told(worker, HOUR)
    assert (only["instance_id"], segments(only), only["seconds"]) == (uuid(1), [(time(0), time(2), 8)], 2)


@pytest.mark.behaviour("adjustments")
class TestLateHandOver:
    @pytest.fixture
    def moved(self, worker: EngineHarness, clock: Clock) -> Any:
        """Charged on host-1 from noon on, and on host-2 from 100 s later on, which host-1 has not heard after two periods."""
        claim(worker)
        move = {"id": "m1", "kind": "migration", "from_host": HOST, "from_node": N1}
        instance = instance_dict(1, node=N1)
        call(worker, "begin_move_claim", OTHER_HOST, instance=instance, move=move, timeout=86400)
        at(clock, 100)
        finished = call(worker, "finish_move", OTHER_HOST, move_id="m1")
        for number in (1, 2):
            at(clock, number * HOUR + 2)
            close(worker)
        assert [told(worker, number * HOUR)[0]["seconds"] for number in (1, 2)] == [HOUR, HOUR]
        return finished

    def test_it_takes_back_what_was_told(self, worker: EngineHarness, clock: Clock, moved: Any) -> None:
        at(clock, 2 * HOUR + 30)
        call(worker, "finish_move", move_id="m1", move=moved)
        at(clock, 3 * HOUR)
        close(worker)
        (adjusted,) = told(worker, 3 * HOUR)
        assert adjusted["segments"] == []
        assert [
            (each["audit_period_beginning"], each["audit_period_ending"], each["seconds"], each["resource_seconds"])
            for each in adjusted["adjustments"]
        ] == [
            (time(0), time(HOUR), 100 - HOUR, {"VCPU": -7000, "MEMORY_MB": -14336000, "DISK_GB": -175000}),
            (time(HOUR), time(2 * HOUR), -HOUR, {"VCPU": -7200, "MEMORY_MB": -14745600, "DISK_GB": -180000}),
        ]
        assert adjusted["seconds"] == 100 - 2 * HOUR
        assert (adjusted["charged"]["VCPU"], adjusted["role"]) == (0, "")
        # Over both hosts, each second of three hours is billed once.
        there = [told(worker, number * HOUR, OTHER_HOST)[0]["seconds"] for number in (1, 2, 3)]
        assert there == [HOUR - 100, HOUR, HOUR]
        assert HOUR + HOUR + adjusted["seconds"] + sum(there) == 3 * HOUR

    def test_a_revert_that_is_told_late_gives_it_back(self, worker: EngineHarness, clock: Clock, moved: Any) -> None:
        at(clock, 2 * HOUR + 10)
        reverted = call(worker, "revert_move", OTHER_HOST, move_id="m1")
        call(worker, "finish_move", move_id="m1", move=moved)
        at(clock, 3 * HOUR + 2)
        close(worker)
        call(worker, "revert_move", move_id="m1", move=reverted)
        at(clock, 4 * HOUR)
        close(worker)
        (third,), (fourth,) = told(worker, 3 * HOUR), told(worker, 4 * HOUR)
        assert (third["segments"], third["seconds"]) == ([], 100 - 2 * HOUR)
        assert segments(fourth) == [(time(3 * HOUR), time(4 * HOUR), 2)]
        (given,) = fourth["adjustments"]
        assert (given["audit_period_ending"], given["seconds"]) == (time(3 * HOUR), HOUR - 10)
        assert (fourth["seconds"], fourth["charged"]["VCPU"], fourth["role"]) == (2 * HOUR - 10, 2, "instance")
        there = [told(worker, number * HOUR, OTHER_HOST) for number in (1, 2, 3)]
        assert [one["seconds"] for (one,) in there] == [HOUR - 100, HOUR, 10]

    def test_it_is_taken_back_once_however_often_it_is_told(
        self, worker: EngineHarness, clock: Clock, moved: Any
    ) -> None:
        for seconds in (30, 40):
            at(clock, 2 * HOUR + seconds)
            call(worker, "finish_move", move_id="m1", move=moved)
        at(clock, 3 * HOUR)
        close(worker)
        call(worker, "finish_move", move_id="m1", move=moved)
        at(clock, 4 * HOUR)
        close(worker)
        assert [one["seconds"] for one in told(worker, 3 * HOUR)] == [100 - 2 * HOUR]
        assert told(worker, 4 * HOUR) == []

    def test_a_node_that_has_retired_since_tells_it(self, worker: EngineHarness, clock: Clock, moved: Any) -> None:
        at(clock, 2 * HOUR + 10)
        change(worker, vm_state="deleted")
        retire(worker, clock, N1)
        for number in (3, 4):
            at(clock, number * HOUR)
            close(worker)
        assert told(worker, 3 * HOUR)[0]["seconds"] == 10
        assert not is_told(worker, 4 * HOUR)

        at(clock, 5 * HOUR + 10)
        call(worker, "finish_move", move_id="m1", move=moved)
        for number in (6, 7):
            at(clock, number * HOUR)
            close(worker)
        assert [told(worker, number * HOUR) for number in (4, 5)] == [[], []]
        (adjusted,) = told(worker, 6 * HOUR)
        assert [each["seconds"] for each in adjusted["adjustments"]] == [100 - HOUR, -HOUR, -10]
        assert not is_told(worker, 7 * HOUR)


@pytest.mark.behaviour("usage-by-time")
def test_what_a_retired_node_is_charged_after_a_revert_is_told(worker: EngineHarness, clock: Clock) -> None:
    claim(worker)
    target = instance_dict(1, node=N2)
    call(worker, "begin_move_claim", instance=target, move={"id": "m1", "kind": "migration"}, timeout=86400)
    at(clock, 100)
    call(worker, "finish_move", move_id="m1")
    at(clock, HOUR)
    close(worker)
    assert told(worker, HOUR)[0]["seconds"] == 100
    call(worker, "revert_move", move_id="m1")
    retire(worker, clock, N2)
    for number in (2, 3):
        at(clock, number * HOUR)
        close(worker)
    assert [one["seconds"] for number in (2, 3) for one in told(worker, number * HOUR)] == [HOUR, HOUR]
    assert told(worker, 2 * HOUR, node=N2) == []
    assert not is_told(worker, 3 * HOUR, node=N2)


@pytest.mark.behaviour("usage-by-time")
def test_a_hand_over_by_a_clock_that_is_ahead_ends_before_what_comes_next(
    make_harness: MakeHarness, worker: EngineHarness, clock: Clock
) -> None:
    """The destination's ledger has another clock, by which it is already 300 s after noon."""
    claim(worker)
    at(clock, 100)
    ahead = Clock()
    at(ahead, 300)
    elsewhere = make_harness(hosts=["host-3"], clock=ahead).start()
    move = {"id": "m1", "kind": "migration", "from_host": HOST, "from_node": N1}
    call(elsewhere, "begin_move_claim", "host-3", instance=instance_dict(1), move=move, timeout=86400)
    finished = call(elsewhere, "finish_move", "host-3", move_id="m1")
    call(worker, "finish_move", move_id="m1", move=finished)
    at(clock, 110)
    call(worker, "revert_move", move_id="m1", move=call(elsewhere, "revert_move", "host-3", move_id="m1"))
    at(clock, 120)
    change(worker, vcpus=4)
    at(clock, HOUR)
    close(worker)
    (only,) = told(worker, HOUR)
    assert segments(only) == [(time(0), time(300), 2), (time(300), time(HOUR), 4)]
