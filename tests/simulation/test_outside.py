# SPDX-License-Identifier: Apache-2.0
"""What acts on workers: schedulers, a hostile client, an operator, drivers. Workers that stop, and hosts without any."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from tests.invariants.record import ERROR, RESULT, Request
from tests.simulation import hostile
from tests.simulation.faults import FAULTS
from tests.simulation.hostile import ANSWER, PARKED, Hostile, Sent
from tests.simulation.watch import Violation
from tests.simulation.world import World
from tests.support.builders import instance_dict
from tracker_worker import threads
from tracker_worker.domain.views import node_view

_START_SECONDS = 5.0


def started(seed: int, *, hosts: int = 2, workers: int = 2, clients: int = 2) -> World:
    world = World(seed, hosts=hosts, workers=workers, clients=clients)
    world.start()
    world.stage.run(_START_SECONDS)
    return world


def settled(world: World) -> None:
    """Let everything end, and judge it."""
    world.rest()
    world.heal()
    world.stage.run(world.stage.now + 60)
    assert world.unsettled() == []
    assert world.violations() == []


def begins(world: World, after: float) -> Counter[str]:
    """The outcomes of the calls that begin claims, by error; '' for what was begun."""
    requests = (request for client in world.clients for request in client.requests)
    wanted = (one for one in requests if one.method == "begin_resource_claim" and one.call and one.sent_at > after)
    return Counter(request.error for request in wanted if request.outcome in (RESULT, ERROR))


@pytest.fixture(scope="module")
def quiet() -> World:
    """A minute and a half of everything but faults."""
    world = started(1, hosts=3, clients=4)
    world.act(1, rate=50, hostile=True, operator=True)
    world.stage.run(100)
    settled(world)
    return world


def test_most_claims_fit_after_the_first_minute(quiet: World) -> None:
    told = begins(quiet, after=60)
    assert told[""] > 0.7 * told.total() > 100
    assert told["insufficient_resources"] > 0


def test_clients_send_copies_and_every_method(quiet: World) -> None:
    requests = [request for client in quiet.clients for request in client.requests]
    assert len({request.unique_id for request in requests}) < len(requests)
    assert {request.method for request in requests} >= {
        *("begin_resource_claim", "begin_resource_claims", "finish_resource_claim", "abort_resource_claim"),
        *("renew_resource_claim", "update_usage", "would_fit", "list_allocations", "get_allocation"),
        *("release_allocation", "report_instances", "get_node", "list_nodes", "get_notifications"),
        "get_instances",
    }
    assert any(request.host is None for request in requests)


def test_an_operator_does_everything(quiet: World) -> None:
    assert quiet.operator is not None
    done = {request.method for request in quiet.operator.requests if request.outcome == RESULT}
    assert done >= {"node drain", "node undrain", "node rename", "node move", "release_allocation", "instance compare"}
    assert quiet.operator.moves


def test_a_hostile_client_sends_every_kind() -> None:
    """Each kind many times, to a worker that has nothing else to do."""
    world = started(2, hosts=1, workers=1)
    world.act(2, rate=0.01, hostile=False, operator=False)
    assert world.hostile is not None
    world.hostile._rate = 40
    world.hostile.start()
    world.stage.run(60)
    settled(world)
    assert len({sent.what.split()[0] for sent in world.hostile._sent}) > 20
    assert any(len(body) > hostile._BIG_BYTES for body in world.hostile.bodies)


def test_what_becomes_of_a_hostile_message_is_judged() -> None:
    world = World(3, hosts=1, workers=1, clients=1)
    one = Hostile(world.stage, world.broker, Random(1), hosts=["h1"], rate=1)
    one._sent += [Sent("a cast", b"1", PARKED), Sent("a call", b"2", ANSWER, "id")]
    assert len(one.wrong(world.store, went_back=False)) == 2


def test_a_driver_that_hangs_holds_up_no_other_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """More nodes hang than are asked at a time; they give their places to others."""
    assert resized_while_others_hang()
    monkeypatch.setattr(threads.DaemonPool, "_wait_locked", _without_patience)
    assert not resized_while_others_hang()


def _without_patience(pool: threads.DaemonPool) -> float | None:
    if not pool._functions:
        return None
    return 0.0 if len(pool._running) < pool._size else None


def resized_while_others_hang() -> bool:
    """Whether the new size of a node of host h2 is told, while 40 nodes of host h1 hang."""
    world = started(4, workers=1)
    for number in range(40):
        world.hardware.put(("h1", f"slow{number}"))
    world.stage.run(40)
    world.sites[0].moods["h1"].hanging.update(world.hardware.nodes["h1"])
    world.stage.run(60)
    world.hardware.nodes["h2"]["n3"]["vcpus"] = 77
    world.stage.run(110)
    [told] = [node_view(ledger) for ledger in world.store.load_host("h2") or () if ledger.name == "n3"]
    return bool(told["vcpus"] == 77)


def test_a_worker_that_stops_sends_what_it_has_decided() -> None:
    world = started(5, workers=1)
    site = world.sites[0]
    assert site.bus is not None
    told: list[Request] = []
    for number in range(20):
        instance = instance_dict(uuid=f"i{number}", node="n1")
        world.clients[0].call("h1", "begin_resource_claim", told.append, instance=instance)
    for _ in range(1000):  # until something waits to be sent
        world.stage.run(world.stage.now + 0.0001)
        if site.bus.unsent():
            break
    assert site.bus.unsent()
    ended: list[float] = []
    site.stop(lambda: ended.append(world.stage.now))
    world.stage.run(world.stage.now + 1)
    assert ended


def test_a_worker_that_stops_and_leaves_something_is_a_violation() -> None:
    world = started(6, workers=1)
    site = world.sites[0]
    assert site.bus is not None
    site.bus.unsent = lambda: 7  # type: ignore[method-assign]
    site.stop(lambda: None)
    with pytest.raises(Violation, match="with 7 bytes to send"):
        world.stage.run(world.stage.now + 1)


def test_a_host_that_nobody_serves_is_served_again() -> None:
    world = started(7)
    world.act(7, rate=20, hostile=False, operator=False)
    world.stage.run(10)
    said = FAULTS["orphan"][1](world, Random(1))
    assert said is not None
    host = said.split()[0]
    world.stage.run(10.5)
    assert all(host not in site.hosts for site in world.sites)
    world.stage.run(20)
    settled(world)
    assert all(host in site.hosts for site in world.sites)
