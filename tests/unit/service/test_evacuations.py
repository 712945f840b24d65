# SPDX-License-Identifier: Apache-2.0
"""A host that was evacuated while its worker was down: the worker that comes back releases what is elsewhere by itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import NOW, begin, instance_dict, node_name, uuid
from tests.support.caller import drained
from tests.support.engine import EngineHarness
from tests.support.scripted import Clock
from tests.support.store import Writer, register, settle
from tests.unit.service.conftest import MakeHarness
from tracker_worker.domain.commands import ReleaseAllocation
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso
from tracker_worker.store.memory import MemoryStore
from tracker_worker.wire.message import decode_message

LEFT, REACHED = "host-1", "host-2"
N1 = node_name(1)
DAY = 86400


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    """The database of two hosts; the first one is charged for an instance and has no worker."""
    store = MemoryStore(now=clock)
    settle(store, host=LEFT, nodes=1).put(begin(1, node=N1)).commit()
    return store


@pytest.fixture
def reached(make_harness: MakeHarness, store: MemoryStore, clock: Clock) -> EngineHarness:
    """The worker of the host to which instances are evacuated."""
    return make_harness(store=store, clock=clock, hosts=[REACHED], owner="worker-2").start()


def evacuate(worker: EngineHarness, *, kind: str = "evacuation", finish: bool = True) -> dict[str, Any]:
    """Move the instance, and tell only the destination."""
    move = {"id": "m1", "kind": kind, "from_host": LEFT, "from_node": N1}
    instance = instance_dict(1, node=N1, vm_state="active", task_state=None)
    told: dict[str, Any] = worker.caller.call("begin_move_claim", source=REACHED, instance=instance, move=move).reply()
    if finish:
        told = worker.caller.call("finish_move", source=REACHED, move_id="m1").reply()
    return told


def come_back(make_harness: MakeHarness, store: MemoryStore, clock: Clock) -> EngineHarness:
    """The worker of the evacuated host starts and looks."""
    worker = make_harness(store=store, clock=clock, hosts=[LEFT], owner="worker-1").start()
    look(worker)
    return worker


def look(worker: EngineHarness) -> None:
    worker.engine.renew_leases()
    for _ in range(2):  # the look, and what it submits
        worker.finish()


def told_of_moves(worker: EngineHarness) -> list[dict[str, Any]]:
    worker.finish()
    bodies = [decode_message(body) for body in drained(worker.broker.notifications)]
    return [body["payload"] for body in bodies if body["event_type"].startswith("tracker.move.")]


def test_it_releases_the_instance_once_and_dates_it_at_the_hand_over(
    make_harness: MakeHarness, reached: EngineHarness, store: MemoryStore, clock: Clock
) -> None:
    evacuate(reached)
    clock.forward(DAY)
    back = come_back(make_harness, store, clock)
    assert (back.charged(LEFT), back.charged(REACHED)) == ([], [uuid(1)])
    for _ in range(3):
        look(back)
    (told,) = told_of_moves(back)
    assert (told["move_id"], told["kind"], told["role"], told["charged"]["VCPU"]) == ("m1", "evacuation", "", 0)
    assert (told["effective_at"], told["occurred_at"]) == (iso(NOW), iso(NOW + DAY * SECOND))
    assert (told["peer_host"], told["peer_node"]) == (REACHED, N1)


def test_the_worker_of_the_destination_leaves_the_other_host_alone(reached: EngineHarness) -> None:
    evacuate(reached)
    look(reached)
    reached.engine.look_for_orphans()
    look(reached)
    assert (reached.charged(LEFT), reached.charged(REACHED)) == ([uuid(1)], [uuid(1)])


@pytest.mark.parametrize(("kind", "finish"), [("evacuation", False), ("live_migration", True), ("migration", True)])
def test_nothing_is_released_before_the_hand_over_and_for_other_kinds(
    make_harness: MakeHarness, reached: EngineHarness, store: MemoryStore, clock: Clock, kind: str, finish: bool
) -> None:
    evacuate(reached, kind=kind, finish=finish)
    assert come_back(make_harness, store, clock).charged(LEFT) == [uuid(1)]


@pytest.mark.parametrize("end", ["confirm_move", "deletion"])
def test_an_evacuation_that_is_over_at_the_destination_is_released_too(
    make_harness: MakeHarness, reached: EngineHarness, store: MemoryStore, clock: Clock, end: str
) -> None:
    evacuate(reached)
    clock.forward(5)
    if end == "deletion":
        instance = {"uuid": uuid(1), "vm_state": "deleted"}
        reached.caller.call("update_usage", source=REACHED, instance=instance).reply()
        assert reached.charged(REACHED) == []
    else:
        assert reached.caller.call(end, source=REACHED, move_id="m1").reply()["state"] == "confirmed"
    clock.forward(DAY)
    back = come_back(make_harness, store, clock)
    assert back.charged(LEFT) == []
    assert [told["effective_at"] for told in told_of_moves(back)] == [iso(NOW)]


def test_an_instance_that_was_claimed_there_anew_stays(
    make_harness: MakeHarness, reached: EngineHarness, store: MemoryStore, clock: Clock
) -> None:
    evacuate(reached)
    clock.forward(DAY)
    writer = Writer(store, LEFT)
    writer.put(ReleaseAllocation(uuid=uuid(1), reason="the host was emptied", released_by="admin"), clock.now)
    writer.put(begin(1, node=N1), clock.now).commit()
    assert come_back(make_harness, store, clock).charged(LEFT) == [uuid(1)]


def test_a_move_that_is_too_old_is_left_alone(
    make_harness: MakeHarness,
    reached: EngineHarness,
    store: MemoryStore,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    evacuate(reached)
    reached.stop()  # nobody forgets the move
    clock.forward(8 * DAY)
    back = come_back(make_harness, store, clock)
    look(back)
    assert back.charged(LEFT) == [uuid(1)]
    assert told_of_moves(back) == []
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_host_without_nodes_has_nothing_to_release(
    make_harness: MakeHarness, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    empty = MemoryStore(now=clock)
    register(empty, LEFT)
    reached = make_harness(store=empty, clock=clock, hosts=[REACHED], owner="worker-2").start()
    evacuate(reached)
    back = make_harness(store=empty, clock=clock, hosts=[LEFT], owner="worker-1", settled=False, nodes=0).start()
    look(back)
    assert told_of_moves(back) == []
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
