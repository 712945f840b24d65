# SPDX-License-Identifier: Apache-2.0
"""The chores of a host have one owner: which worker it is, when it changes, and that a change leaves no chore undone."""

from __future__ import annotations

import pytest

from tests.support.builders import HOST, begin, driver_resource_dict, instance_dict, node_name, uuid
from tests.support.deadline import wait_until
from tests.support.engine import EngineHarness
from tests.support.scripted import Clock
from tests.support.store import Writer, note
from tests.unit.service.conftest import MakeHarness
from tracker_worker.bus.base import FANOUT, SHARED
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.chores.leases import LEASE_SECONDS
from tracker_worker.store.base import Conflict, Store, standbys

N1 = node_name(1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(harness: EngineHarness) -> Store:
    return harness.store.inner


@pytest.fixture
def harness(make_harness: MakeHarness, clock: Clock) -> EngineHarness:
    """The worker that holds the lease."""
    harness = make_harness(clock=clock).start()
    harness.finish()
    return harness


@pytest.fixture
def standby(harness: EngineHarness, make_harness: MakeHarness, clock: Clock) -> EngineHarness:
    """A worker on the same store, with a separate bus, that does not hold the lease."""
    standby = make_harness(store=harness.store.inner, clock=clock, owner="worker-2").start()
    standby.finish()
    return standby


def owner_of(store: Store) -> str | None:
    [host] = store.hosts()
    return host.lease_owner


def standbys_of(store: Store, clock: Clock) -> list[str]:
    [host] = store.hosts()
    return standbys(host, clock())


def cursor_of(harness: EngineHarness) -> int:
    [stream] = harness.store.inner.streams(HOST)
    return stream.cursors["notifications"]


def lost_notification(harness: EngineHarness) -> None:
    """A notification that was committed and never published, because its worker was killed in between."""
    writer = Writer(harness.store.inner).put(begin(7, node=N1))
    writer.notifications[0] = note(writer[N1], writer[N1].sequence, event_type="tracker.claim.begun")
    writer.commit()


def test_only_the_lease_owner_relays(harness: EngineHarness, standby: EngineHarness, store: Store) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    assert harness.hear(1) == [("claim.begun", 2)]
    wait_until(lambda: cursor_of(harness) == 2, "the cursor")
    standby.engine.renew_leases()
    assert standby.notified() == []
    assert owner_of(store) == "worker-1"


def test_only_the_lease_owner_audits(harness: EngineHarness, standby: EngineHarness) -> None:
    for each in (standby, harness):
        each.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
        each.engine.audit(HOST)
    assert harness.hear(1) == [("node.updated", 2)]
    standby.finish()
    assert standby.drivers[HOST].calls == []


def test_a_standby_audits_for_a_call(standby: EngineHarness) -> None:
    standby.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    assert standby.caller.call("update_available_resource").reply()[0]["vcpus"] == 64


def test_no_chore_is_done_before_a_lease_is_taken(make_harness: MakeHarness) -> None:
    """The worker commits the first inventory before the bus starts."""
    harness = make_harness().start(relaying=False)
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    harness.engine.audit(HOST)
    assert harness.notified() == []
    assert harness.drivers[HOST].calls == []
    assert owner_of(harness.store.inner) is None
    harness.engine.renew_leases()
    assert harness.hear(1) == [("claim.begun", 2)]


def test_a_worker_that_commits_for_a_host_takes_over_its_chores(
    harness: EngineHarness, standby: EngineHarness, store: Store
) -> None:
    standby.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    assert standby.hear(1) == [("claim.begun", 2)]
    assert owner_of(store) == "worker-2"
    harness.engine.renew_leases()
    harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    harness.engine.audit(HOST)
    assert harness.notified() == []
    assert harness.drivers[HOST].calls == []


@pytest.mark.parametrize("source", [SHARED, FANOUT])
def test_a_request_from_a_shared_topic_does_not_take_over_the_chores(
    harness: EngineHarness, standby: EngineHarness, store: Store, source: str
) -> None:
    standby.caller.cast("begin_resource_claim", source=source, host=HOST, instance=instance_dict(1))
    standby.finish()
    assert standby.charged() == [uuid(1)]
    assert owner_of(store) == "worker-1"
    harness.engine.renew_leases()
    assert harness.hear(1) == [("claim.begun", 2)]
    assert standby.notified() == []


@pytest.mark.parametrize("method", ["get_node", "oslo_rpc_server_ping"])
def test_whoever_receives_from_a_hosts_queue_takes_over_its_chores(
    standby: EngineHarness, store: Store, method: str
) -> None:
    standby.caller.call(method).reply()
    standby.finish()
    assert owner_of(store) == "worker-2"
    assert standby.engine.active == {HOST}


def test_a_standby_is_known_until_it_ends_or_has_been_silent(
    harness: EngineHarness, standby: EngineHarness, clock: Clock, store: Store
) -> None:
    assert standbys_of(store, clock) == ["worker-2"]
    standby.caller.call("get_node").reply()
    standby.finish()
    assert (owner_of(store), standbys_of(store, clock)) == ("worker-2", ["worker-1"])
    clock.forward(LEASE_SECONDS + 1)
    standby.engine.renew_leases()
    standby.finish()
    assert standbys_of(store, clock) == []
    harness.engine.renew_leases()
    harness.finish()
    assert standbys_of(store, clock) == ["worker-1"]
    harness.stop()
    assert standbys_of(store, clock) == []


def test_a_worker_is_no_standby_of_a_host_that_it_may_not_serve(
    harness: EngineHarness, standby: EngineHarness, clock: Clock, store: Store
) -> None:
    standby.engine.allow(frozenset())
    standby.finish()
    assert standbys_of(store, clock) == []


def test_a_renewed_lease_keeps_its_owner(
    harness: EngineHarness, standby: EngineHarness, clock: Clock, store: Store
) -> None:
    for _ in range(4):
        clock.forward(LEASE_SECONDS - 1)
        harness.engine.renew_leases()
        harness.finish()
        standby.engine.renew_leases()
        standby.finish()
    assert owner_of(store) == "worker-1"


class TestSteppedClock:
    """Somebody sets the clock of the database."""

    @pytest.mark.parametrize("seconds", [7200, -7200])
    def test_a_worker_that_is_up_keeps_its_lease(
        self, harness: EngineHarness, standby: EngineHarness, clock: Clock, store: Store, seconds: float
    ) -> None:
        clock.step(seconds)
        for each in (standby, harness, standby, harness, standby):
            clock.forward(2.5)
            each.engine.renew_leases()
            each.finish()
            assert owner_of(store) == "worker-1"
        clock.forward(LEASE_SECONDS + 1)
        standby.engine.renew_leases()
        standby.finish()
        assert owner_of(store) == "worker-2"

    @pytest.mark.parametrize("seconds", [7200, 10, -10, -7200])
    def test_the_lease_of_a_worker_that_is_gone_lasts_half_a_minute_at_most(
        self, harness: EngineHarness, standby: EngineHarness, clock: Clock, store: Store, seconds: float
    ) -> None:
        harness.stop(release=False)
        clock.step(seconds)
        waited = 0
        while owner_of(store) != "worker-2":
            clock.forward(LEASE_SECONDS / 3)
            waited += LEASE_SECONDS // 3
            standby.engine.renew_leases()
            standby.finish()
            assert waited <= 30


def test_a_worker_that_takes_an_expired_lease_relays_the_rest(
    harness: EngineHarness, standby: EngineHarness, clock: Clock
) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    assert harness.hear(1) == [("claim.begun", 2)]
    wait_until(lambda: cursor_of(harness) == 2, "the cursor")
    harness.stop(release=False)
    lost_notification(harness)
    clock.forward(LEASE_SECONDS + 1)
    standby.engine.renew_leases()
    assert standby.broker.notifications.get(timeout=30)
    wait_until(lambda: cursor_of(standby) == 3, "the cursor")


def test_the_lease_owner_relays_what_another_worker_has_left_in_the_outbox(harness: EngineHarness) -> None:
    """The other worker had the lease between two renewals and has released it."""
    lost_notification(harness)
    harness.engine.renew_leases()
    assert harness.broker.notifications.get(timeout=30)


def test_a_stop_releases_the_lease_and_the_next_owner_relays_nothing_twice(
    harness: EngineHarness, standby: EngineHarness, store: Store
) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    harness.stop()
    assert owner_of(store) is None
    assert cursor_of(harness) == 2
    standby.engine.renew_leases()
    assert standby.notified() == []
    assert owner_of(store) == "worker-2"


@pytest.mark.parametrize("error", [StoreUnavailable(reason="away"), Conflict("in the way")], ids=["away", "conflict"])
def test_a_stop_succeeds_although_the_lease_cannot_be_released(harness: EngineHarness, error: Exception) -> None:
    harness.store.script["release_lease"] = [error]
    harness.stop()
    assert harness.store.script["release_lease"] == []
    harness.stop()


def test_notifications_of_a_new_node_are_relayed(harness: EngineHarness) -> None:
    harness.drivers[HOST].nodes["node-2"] = driver_resource_dict()
    harness.caller.call("update_available_resource").reply()
    harness.engine.renew_leases()
    assert harness.hear(1) == [("node.updated", 1)]


def test_each_host_has_its_own_lease(make_harness: MakeHarness, clock: Clock) -> None:
    first = make_harness(hosts=["host-1", "host-2"], clock=clock).start()
    first.finish()
    second = make_harness(hosts=["host-1", "host-2"], store=first.store.inner, clock=clock, owner="worker-2").start()
    second.caller.call("begin_resource_claim", source="host-2", instance=instance_dict(1)).reply()
    assert second.hear(1) == [("claim.begun", 2)]
    first.engine.renew_leases()
    for each in (first, second):
        for host in each.hosts:
            each.engine.audit(host)
    wait_until(lambda: first.drivers["host-1"].calls and second.drivers["host-2"].calls, "the audits")
    first.finish()
    second.finish()
    assert first.drivers["host-2"].calls == second.drivers["host-1"].calls == []


class TestPrune:
    @pytest.fixture
    def relayed(self, harness: EngineHarness) -> EngineHarness:
        """A worker with three notifications that are confirmed, and the cursor after them."""
        for number in range(1, 4):
            harness.caller.call("begin_resource_claim", unique_id=f"u-{number}", instance=instance_dict(number)).reply()
        wait_until(lambda: cursor_of(harness) == 4, "the cursor")
        harness.notified()
        return harness

    def rows(self, harness: EngineHarness) -> int:
        return len(harness.store.inner.outbox(harness.ledger().node(N1).id, after=0, limit=100))

    def test_old_rows_are_pruned(self, relayed: EngineHarness, clock: Clock) -> None:
        clock.forward(100)
        relayed.caller.call("begin_resource_claim", unique_id="u-4", instance=instance_dict(4)).reply()
        wait_until(lambda: cursor_of(relayed) == 5, "the cursor")
        relayed.engine.prune(inbox_seconds=99, outbox_seconds=99)
        relayed.finish()
        assert self.rows(relayed) == 1
        assert list(relayed.store.inner.answered(["u-1", "u-2", "u-3", "u-4"])) == ["u-4"]

    def test_young_and_unconfirmed_rows_are_not_pruned(self, relayed: EngineHarness, clock: Clock) -> None:
        lost_notification(relayed)
        relayed.engine.prune(inbox_seconds=0, outbox_seconds=0)
        relayed.finish()
        assert self.rows(relayed) == 5
        clock.forward(1)
        relayed.engine.prune(inbox_seconds=0, outbox_seconds=0)
        relayed.finish()
        assert self.rows(relayed) == 1

    def test_a_standby_prunes_nothing(self, relayed: EngineHarness, standby: EngineHarness, clock: Clock) -> None:
        clock.forward(1)
        standby.engine.prune(inbox_seconds=0, outbox_seconds=0)
        standby.finish()
        assert "prune" not in standby.store.calls
        assert self.rows(relayed) == 4

    def test_every_host_is_pruned(self, make_harness: MakeHarness, clock: Clock) -> None:
        hosts = ["host-1", "host-2", "host-3"]
        harness = make_harness(hosts=hosts, clock=clock).start()
        for host in hosts:
            harness.caller.call("begin_resource_claim", source=host, unique_id=host, instance=instance_dict(1)).reply()
        clock.forward(1)
        harness.engine.prune(inbox_seconds=0, outbox_seconds=0)
        wait_until(lambda: not harness.store.inner.answered(hosts), "the rows dropped")

    def test_many_rows_are_pruned_in_small_steps(
        self, relayed: EngineHarness, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tracker_worker.service.chores.pruning._ROWS", 1)
        clock.forward(1)
        relayed.store.calls.clear()
        relayed.engine.prune(inbox_seconds=0, outbox_seconds=0)
        wait_until(lambda: self.rows(relayed) == 0, "the rows dropped")
        assert relayed.caller.call("get_node").reply()["sequence"] == 4
        assert relayed.store.calls.count("prune") >= 3
