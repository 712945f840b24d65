# SPDX-License-Identifier: Apache-2.0
"""The worker closes the periods of its nodes, whatever ends it in between."""

from __future__ import annotations

import json
import threading
from itertools import count
from typing import Any

import pytest

from tests.support.builders import HOST, NOW, TIMEOUT, begin, node_name, update, uuid
from tests.support.deadline import SECONDS
from tests.support.engine import EngineHarness
from tests.support.invoice import NodeBill
from tests.support.scripted import Clock
from tests.support.store import ALL, Writer, load, register, settle
from tests.unit.service.conftest import MakeHarness
from tracker_worker.domain.commands import FinishClaim, RetireNode
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.chores import periods
from tracker_worker.store.base import Store
from tracker_worker.store.memory import MemoryStore

N1, N2 = node_name(1), node_name(2)
HOUR = 3600
TO_THE_HOUR = HOUR - NOW // SECOND % HOUR
EXISTS, CLOSED = "tracker.usage.exists", "tracker.period.closed"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    """host-1 has two nodes, of which the first is charged for three instances."""
    store = MemoryStore(now=clock)
    writer = settle(store)
    for number in range(1, 4):
        writer.put(begin(number, node=N1, timeout=100 * TIMEOUT))
    writer.commit()
    return store


@pytest.fixture
def worker(make_harness: MakeHarness, store: MemoryStore, clock: Clock) -> EngineHarness:
    return make_harness(store=store, clock=clock, nodes=2).start()


def told(store: Store, node: str = N1, host: str = HOST) -> list[tuple[str, dict[str, Any]]]:
    """The event types and the payloads of the periods of a node."""
    (stream,) = [stream for stream in store.streams(host) if stream.node == node]
    rows = store.outbox(stream.id, after=0, limit=ALL)
    return [(row.event_type, json.loads(row.payload)) for row in rows if row.event_type in (EXISTS, CLOSED)]


def ids(store: Store, node: str = N1) -> list[str]:
    (stream,) = [stream for stream in store.streams(HOST) if stream.node == node]
    return [row.message_id for row in store.outbox(stream.id, after=0, limit=ALL)]


def close(worker: EngineHarness, steps: int = 12) -> None:
    """Have the worker look, and decide what follows."""
    worker.engine.close_periods()
    for _ in range(steps):
        worker.finish()


def check(store: Store, node: str = N1, host: str = HOST) -> NodeBill:
    """The bill of all events is that of the periods."""
    bill = NodeBill()
    (stream,) = [stream for stream in store.streams(host) if stream.node == node]
    for row in store.outbox(stream.id, after=0, limit=ALL):
        if not row.event_type[0].isupper():  # as a writer of the tests notes what nobody renders
            bill.add(row.event_type, json.loads(row.payload))
    return bill


def test_nothing_is_told_before_the_period_is_over(worker: EngineHarness, store: MemoryStore, clock: Clock) -> None:
    clock.forward(TO_THE_HOUR - 0.001)
    close(worker)
    assert told(store) == []
    clock.forward(0.001)
    close(worker)
    assert [event for event, _ in told(store)] == [EXISTS] * 3 + [CLOSED]


@pytest.mark.behaviour("closed-periods")
def test_each_instance_is_told_and_then_the_period_is_closed(
    worker: EngineHarness, store: MemoryStore, clock: Clock
) -> None:
    clock.forward(TO_THE_HOUR + 2)
    close(worker)
    (*exists, (_, closed)) = told(store)
    payloads = [payload for _, payload in exists]
    assert [payload["instance_id"] for payload in payloads] == [uuid(1), uuid(2), uuid(3)]
    for payload in payloads:
        assert payload["seconds"] == TO_THE_HOUR
        assert payload["resource_seconds"] == {
            name: amount * TO_THE_HOUR for name, amount in payload["resources"].items()
        }
        assert (payload["charged"], payload["role"]) == (payload["resources"], "instance")
        assert (payload["part"], payload["parts"], payload["adjustments"]) == (1, 1, [])
        (segment,) = payload["segments"]
        assert (segment["seconds"], segment["claim_state"]) == (TO_THE_HOUR, "begun")
    assert closed["exists"] == 3
    assert (closed["first_sequence"], closed["last_sequence"]) == (payloads[0]["sequence"], payloads[-1]["sequence"])
    assert closed["seconds"] == 3 * TO_THE_HOUR
    assert closed["resource_seconds"]["VCPU"] == sum(payload["resource_seconds"]["VCPU"] for payload in payloads)
    ((event, empty),) = told(store, N2)
    assert (event, empty["exists"], empty["first_sequence"], empty["last_sequence"], empty["seconds"]) == (
        CLOSED,
        0,
        0,
        0,
        0,
    )
    assert empty["resource_seconds"] == {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}


@pytest.mark.behaviour("closed-periods")
def test_missed_periods_are_closed_in_their_order(worker: EngineHarness, store: MemoryStore, clock: Clock) -> None:
    clock.forward(TO_THE_HOUR + 49 * HOUR)
    close(worker, steps=300)
    closed = [payload for event, payload in told(store) if event == CLOSED]
    assert len(closed) == 50
    endings = [payload["audit_period_ending"] for payload in closed]
    assert endings == sorted(endings)
    assert [payload["audit_period_beginning"] for payload in closed[1:]] == endings[:-1]
    assert {payload["exists"] for payload in closed} == {3}
    assert len([payload for event, payload in told(store, N2) if event == CLOSED]) == 50


@pytest.mark.behaviour("closed-periods")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(5))
def test_a_worker_that_ends_in_between_neither_skips_nor_repeats(
    make_harness: MakeHarness,
    store: MemoryStore,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    after: bool,
) -> None:
    monkeypatch.setattr(periods, "_MOST_INSTANCES", 1)
    first = make_harness(store=store, clock=clock, nodes=2).start()
    clock.forward(TO_THE_HOUR + 2)
    numbers = count()
    commit, ended = store.commit, threading.Event()

    def failing(written: Any) -> None:
        here = next(numbers) >= number
        if here and not after:
            ended.set()
            raise StoreUnavailable("the worker ends")
        commit(written)
        if here:
            ended.set()
            raise StoreUnavailable("the worker ends")

    with monkeypatch.context() as dying:
        dying.setattr(first.store, "commit", failing)
        first.engine.close_periods()
        assert ended.wait(SECONDS)
        first.stop(release=False)
        sent = ids(store)
    clock.forward(60)
    second = make_harness(store=store, clock=clock, nodes=2, owner="worker-2").start()
    close(second, steps=30)
    assert ids(store)[: len(sent)] == sent
    assert [event for event, _ in told(store)] == [EXISTS] * 3 + [CLOSED]
    assert len({payload["instance_id"] for event, payload in told(store) if event == EXISTS}) == 3
    assert [event for event, _ in told(store, N2)] == [CLOSED]


def test_requests_go_on_while_a_period_is_closed(
    worker: EngineHarness, store: MemoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decided after the period was frozen is told with the next one."""
    monkeypatch.setattr(periods, "_MOST_INSTANCES", 1)
    clock.forward(TO_THE_HOUR + 2)
    worker.engine.close_periods()
    for number in (3, 2, 1):
        deleted = {"uuid": uuid(number), "vm_state": "deleted"}
        worker.caller.call("update_usage", instance=deleted).reply()
        clock.forward(1)
    close(worker)
    assert [payload["seconds"] for event, payload in told(store) if event == EXISTS] == [TO_THE_HOUR] * 3
    clock.forward(HOUR)
    close(worker)
    assert sorted(payload["seconds"] for event, payload in told(store)[4:] if event == EXISTS) == [2, 3, 4]
    assert [payload["charged"]["VCPU"] for event, payload in told(store)[4:] if event == EXISTS] == [0, 0, 0]


@pytest.mark.behaviour("closed-periods")
def test_a_retired_node_has_no_period_after_that_of_its_retirement(
    worker: EngineHarness, store: MemoryStore, clock: Clock
) -> None:
    Writer(store).put(RetireNode(node=N2, reason="gone"), clock.now).commit()
    clock.forward(TO_THE_HOUR + 5 * HOUR)
    close(worker, steps=60)
    assert [event for event, _ in told(store, N2)] == [CLOSED]
    assert len([event for event, _ in told(store) if event == CLOSED]) == 6


@pytest.mark.behaviour("closed-periods")
def test_another_worker_goes_on_with_the_last_period_of_a_retired_node(
    make_harness: MakeHarness, store: MemoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writer(store).put(RetireNode(node=N2, reason="gone"), clock.now).commit()
    first = make_harness(store=store, clock=clock, nodes=2).start()
    clock.forward(TO_THE_HOUR + 2)
    frozen = threading.Event()

    def failing(written: Any) -> None:
        if any(ledger.periods.ending for ledger in load(store)):
            frozen.set()
            raise StoreUnavailable("the worker ends")
        commit(written)

    commit = store.commit
    with monkeypatch.context() as dying:
        dying.setattr(first.store, "commit", failing)
        first.engine.close_periods()
        assert frozen.wait(SECONDS)
        first.stop(release=False)
    assert load(store).nodes[N2].periods.ending
    clock.forward(60)
    close(make_harness(store=store, clock=clock, nodes=2, owner="worker-2").start(), steps=30)
    assert [event for event, _ in told(store, N2)] == [CLOSED]


def test_the_periods_of_a_host_that_nobody_serves_are_closed(
    worker: EngineHarness, store: MemoryStore, clock: Clock
) -> None:
    register(store, "orphan")
    settle(store, host="orphan", nodes=1)
    clock.forward(TO_THE_HOUR + 2)
    worker.engine.look_for_orphans()
    close(worker)
    assert [event for event, _ in told(store, N1, "orphan")] == [CLOSED]


def test_no_period_is_closed_where_notifications_are_switched_off(
    make_harness: MakeHarness, store: MemoryStore, clock: Clock
) -> None:
    worker = make_harness(store=store, clock=clock, nodes=2, notify=False).start()
    worker.caller.call("update_usage", instance={"uuid": uuid(1), "vm_state": "active"}).reply()
    clock.forward(TO_THE_HOUR + 2)
    worker.caller.call("update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"}).reply()
    close(worker)
    assert told(store) == []
    assert store.billed(load(store).nodes[N1].id, beginning=0, ending=2**62) == {}


def test_a_long_period_is_told_in_parts(worker: EngineHarness, store: MemoryStore, clock: Clock) -> None:
    writer = Writer(store).put(FinishClaim(claim_id=uuid(1)), clock.now)
    for number in range(450):
        clock.forward(2)
        writer.put(update(1, vm_state=("active", "stopped")[number % 2]), clock.now)
    writer.commit()
    clock.forward(TO_THE_HOUR)
    close(worker)
    parts = [payload for event, payload in told(store) if event == EXISTS and payload["instance_id"] == uuid(1)]
    assert [(payload["part"], payload["parts"], len(payload["segments"])) for payload in parts] == [
        (1, 3, 200),
        (2, 3, 200),
        (3, 3, 50 + 1),
    ]
    assert sum(payload["seconds"] for payload in parts) == TO_THE_HOUR
    bill = check(store)
    assert len(bill.periods) == 1
