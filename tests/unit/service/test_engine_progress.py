# SPDX-License-Identifier: Apache-2.0
"""Nobody waits because others are busy: one host, one message or one outage holds up only itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.support.builders import begin, driver_resource_dict, instance_dict, node_name, uuid
from tests.support.caller import Call, Refused
from tests.support.engine import STEPS_TO_SETTLE, EngineHarness
from tests.support.store import Writer
from tracker_worker.bus.base import FANOUT, SHARED
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Commit, Conflict, HostLocked, LockedHost, Unstorable

H1, H2, H3 = HOSTS = ("host-1", "host-2", "host-3")
N1 = node_name(1)


class Worker:
    """A worker of three hosts, stepped by hand. Before each commit, ``interferes`` is called with the hosts that it writes."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.harness = EngineHarness(hosts=HOSTS, monotonic=lambda: self.now, **options)
        self.store = self.harness.store
        self.harness.engine.acquire_leases()
        self.harness.connect()
        self.harness.engine.renew_leases()
        self.harness.bus.probe(sorted(self.harness.engine.held))
        self.interferes: Callable[[set[str]], None] = lambda hosts: None
        commit = self.store.inner.commit
        self.written: list[set[str]] = []

        def interfered(made: Commit) -> None:
            hosts = {ledger.host for ledger in made.ledgers}
            self.interferes(hosts)
            commit(made)
            self.written.append(hosts)

        self.store.inner.commit = interfered  # type: ignore[method-assign]
        self.plain_commit = commit
        self.step(STEPS_TO_SETTLE)

    def step(self, times: int = 1) -> float | None:
        for _ in range(times):
            due = self.harness.engine.step(self.now)
        return due

    def begin(self, number: int, host: str, *, seconds: float = 60, source: str | None = None) -> Call:
        args = {"host": host} if source is not None else {}
        return self.harness.caller.call(
            "begin_resource_claim",
            source=source or host,
            instance=instance_dict(number),
            deadline=self.now + seconds,
            **args,
        )

    def busy(self, *hosts: str) -> None:
        """From now on another worker commits for these hosts immediately before each commit that writes one of them."""
        numbers = iter(range(1000, 2000))

        def interferes(written: set[str]) -> None:
            for host in sorted(written & set(hosts)):
                interferes_not, self.interferes = self.interferes, lambda hosts: None
                Writer(self.store.inner, host=host).put(begin(next(numbers), node=N1)).commit()
                self.interferes = interferes_not

        self.interferes = interferes


@pytest.fixture(autouse=True)
def short_delays() -> None:
    """The delays are the real ones: the time is not."""


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.harness.stop()


def replied(calls: Sequence[Call]) -> list[bool]:
    return [call.replied() for call in calls]


class TestBusyHost:
    def test_the_other_hosts_of_a_batch_commit_in_the_same_pass(self, worker: Worker) -> None:
        worker.busy(H1)
        calls = [worker.begin(number, host) for number, host in enumerate(HOSTS)]
        worker.step()
        assert replied(calls) == [False, True, True]

    def test_it_is_decided_under_lock_after_two_lost_races(self, worker: Worker) -> None:
        worker.busy(H1)
        call = worker.begin(1, H1)
        other = worker.begin(2, H2)
        worker.step(2)
        assert call.reply()["state"] == "begun"
        assert other.replied()
        assert uuid(1) in worker.harness.charged(H1)
        counted = worker.harness.counters.snapshot()
        assert (counted["conflicts"], counted["most_lost_races"], counted["locked_decisions"]) == (2, 2, 1)

    def test_its_messages_keep_their_order(self, worker: Worker) -> None:
        worker.busy(H1)
        worker.begin(1, H1)
        worker.harness.caller.cast("abort_resource_claim", source=H1, claim_id=uuid(1))
        again = worker.begin(1, H1)
        view = worker.harness.caller.call("get_node", source=H1)
        worker.step(3)
        assert again.reply()["state"] == "begun"
        assert view.reply()["running_vms"] == len(worker.harness.charged(H1))

    def test_its_later_messages_wait_behind_the_earlier_ones_and_the_others_do_not(self, worker: Worker) -> None:
        worker.busy(H1)
        first, _ = worker.begin(1, H1), worker.begin(2, H2)

        def locked_later(host_id: int) -> AbstractContextManager[LockedHost]:
            raise HostLocked(reason="the row is locked")

        worker.store.inner.locked = locked_later  # type: ignore[method-assign]
        worker.step(3)
        second, third = worker.begin(3, H1), worker.begin(4, H2)
        worker.step()
        assert replied([first, second, third]) == [False, False, True]
        del worker.store.inner.locked
        worker.now += 10
        worker.step()
        assert replied([first, second]) == [True, True]

    def test_a_message_that_another_worker_has_answered_meanwhile_gets_that_answer_under_lock(
        self, worker: Worker
    ) -> None:
        worker.busy(H1)
        copy = {"unique_id": "u-1", "instance": instance_dict(1), "source": H1}
        first = worker.harness.caller.call("begin_resource_claim", **copy)
        locked = worker.store.inner.locked

        def answered_first(host_id: int) -> AbstractContextManager[LockedHost]:
            worker.store.inner.locked = locked  # type: ignore[method-assign]
            worker.interferes = lambda hosts: None
            other = EngineHarness(hosts=HOSTS, store=worker.store.inner, owner="worker-2", monotonic=lambda: worker.now)
            other.connect()
            other.caller.cast("begin_resource_claim", **copy)
            other.engine.step(worker.now)
            return locked(host_id)

        worker.store.inner.locked = answered_first  # type: ignore[method-assign]
        worker.step(3)
        assert first.reply() is None  # the recorded answer is that of a cast
        assert worker.harness.charged(H1).count(uuid(1)) == 1

    def test_a_request_about_all_hosts_repeats_only_the_part_of_the_busy_one(self, worker: Worker) -> None:
        worker.busy(H1)
        calls = [worker.begin(number, host, source=SHARED) for number, host in enumerate(HOSTS)]
        usage = worker.harness.caller.call("get_usage", source=SHARED)
        nodes = worker.harness.caller.call("list_nodes", source=SHARED)
        worker.step()
        assert not usage.replied()
        worker.step(2)
        assert replied(calls) == [True, True, True]
        views = nodes.reply()
        assert [view["host"] for view in views] == list(HOSTS)
        assert sum(view["running_vms"] for view in views) == sum(used["instances"] for used in usage.reply().values())
        assert worker.store.calls.count("locked") == 1

    def test_a_read_is_never_retried(self, worker: Worker) -> None:
        Writer(worker.store.inner, host=H1).put(begin(7, node=N1)).commit()
        reads = [worker.harness.caller.call("get_usage", source=SHARED) for _ in range(3)]
        worker.store.calls.clear()
        worker.step()
        assert [sum(used["instances"] for used in read.reply().values()) for read in reads] == [1, 1, 1]
        assert worker.store.calls == ["refreshed"]
        assert worker.harness.counters.snapshot()["conflicts"] == 0


class TestLockedHost:
    """Another writer is stopped and holds the rows of one host: the store works, and an access to this host waits in vain."""

    @pytest.fixture
    def worker(self) -> Iterator[Worker]:
        made = Worker()

        def interferes(hosts: set[str]) -> None:
            if H1 in hosts:
                made.now += 1.5
                raise HostLocked(reason="the row is locked")

        made.interferes = interferes
        yield made
        made.harness.stop()

    def test_the_other_hosts_go_on(self, worker: Worker) -> None:
        stuck = worker.begin(1, H1)
        others = [worker.begin(2, H2), worker.begin(3, H3)]
        worker.step(3)  # the batch waits, then the host alone; a pass waits once
        assert replied([stuck, *others]) == [False, True, True]
        later = worker.begin(4, H2)
        worker.step()
        assert later.replied()

    def test_its_calls_are_told_in_time(self, worker: Worker) -> None:
        call, other = worker.begin(1, H1, seconds=8), worker.begin(2, H2)
        deadline = worker.now + 8
        while not call.replied():
            worker.now += worker.step() or 0.05
            assert worker.now < deadline - 0.5
        assert call.reply() == Refused("StoreUnavailable", {"reason": "the row is locked"})
        assert other.replied()
        assert not worker.harness.engine._engine._backlog.is_held_up

    def test_the_relay_goes_on(self, worker: Worker) -> None:
        worker.begin(1, H1)
        worker.begin(2, H2)
        worker.step(2)
        Writer(worker.store.inner, host=H3).put(begin(7, node=N1)).commit()
        worker.harness.engine.renew_leases()
        for _ in range(20):
            worker.now += worker.step() or 0.05
        assert [sequence for _, sequence in worker.harness.notified()] == [2, 2]


class TestUnstorable:
    def refuse(self, worker: Worker, bad: int) -> None:
        """The store cannot keep the allocation of this instance."""

        def check(made: Commit) -> None:
            touched = [held for ledger in made.ledgers for held in ledger.touched.values()]
            if any(held is not None and held.uuid == uuid(bad) for held in touched):
                raise Unstorable("too large")
            worker.plain_commit(made)

        worker.store.inner.commit = check  # type: ignore[method-assign]

    def test_a_batch_is_halved_down_to_the_one_message(self, worker: Worker) -> None:
        self.refuse(worker, 11)
        calls = [worker.begin(number, HOSTS[number % 3]) for number in range(16)]
        attempts = 0
        while not all(replied(calls)):
            worker.step()
            attempts += 1
        assert [isinstance(call.reply(), Refused) for call in calls] == [number == 11 for number in range(16)]
        assert attempts < 16

    def test_nothing_is_halved_while_the_store_cannot_write(self, worker: Worker) -> None:
        def probe(host_id: int, now: int) -> None:
            raise StoreUnavailable(reason="the disk is full")

        self.refuse(worker, 1)
        worker.store.inner.probe = probe  # type: ignore[method-assign]
        worker.harness.caller.cast("begin_resource_claim", source=H1, instance=instance_dict(1))
        worker.harness.caller.cast("begin_resource_claim", source=H1, instance=instance_dict(2))
        for _ in range(60):
            worker.now += worker.step() or 1
        assert worker.harness.broker.parked.empty()
        assert worker.harness.counters.snapshot()["halved_batches"] == 0
        assert worker.harness.unsettled() == 2

    def test_a_batch_has_a_limit_in_messages_and_in_bytes(self, worker: Worker) -> None:
        for number in range(1500):
            worker.harness.caller.cast("finish_resource_claim", source=H1, claim_id=uuid(number))
        worker.store.commits.clear()
        worker.step(2)
        assert [len(commit.answered) for commit in worker.store.commits] == [1000, 500]
        for number in range(10):
            padded = {**instance_dict(number), "padding": "y" * 900_000}
            worker.harness.caller.cast("begin_resource_claim", source=H2, instance=padded)
        worker.store.commits.clear()
        worker.step(4)
        assert [len(commit.events) for commit in worker.store.commits] == [4, 4, 2]


class TestLostConnection:
    def test_what_is_not_decided_is_dropped_at_once(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        worker.store.script["commit"] = [StoreUnavailable(reason="away") for _ in range(1000)]
        for number in range(100):
            worker.harness.caller.cast("begin_resource_claim", source=H1, instance=instance_dict(number))
        worker.step()
        monkeypatch.setattr(worker.harness.bus, "is_current", lambda delivery: False)
        worker.harness.engine.lost()
        worker.step()
        assert len(worker.harness.engine._engine._backlog) == 0
        assert worker.harness.counters.snapshot()["dropped_deliveries"] == 100

    def test_a_request_about_all_hosts_is_dropped_whole(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        worker.store.script["refreshed"] = [StoreUnavailable(reason="away") for _ in range(1000)]
        call = worker.harness.caller.call("list_nodes", source=SHARED)
        worker.step()
        monkeypatch.setattr(worker.harness.bus, "is_current", lambda delivery: False)
        worker.harness.engine.lost()
        worker.store.script.clear()
        worker.now += 10
        worker.step()
        assert not call.replied()


class TestStandby:
    @pytest.fixture
    def standby(self, worker: Worker) -> Iterator[EngineHarness]:
        made = EngineHarness(hosts=HOSTS, store=worker.store.inner, owner="worker-2", monotonic=lambda: worker.now)
        assert made.engine.acquire_leases() == frozenset()
        made.connect()
        made.engine.renew_leases()
        made.engine.step(worker.now)
        yield made
        made.stop()

    def test_a_fanned_out_audit_is_done_by_the_workers_of_the_hosts_only(
        self, worker: Worker, standby: EngineHarness
    ) -> None:
        standby.inventories.start()
        for host in HOSTS:
            standby.drivers[host].nodes[N1] = driver_resource_dict(vcpus=64)
        standby.caller.cast("update_available_resource", source=FANOUT)
        standby.engine.step(worker.now)
        assert standby.unsettled() == 0
        assert [standby.drivers[host].calls for host in HOSTS] == [[], [], []]
        assert standby.store.commits == []

    def test_it_is_active_for_the_hosts_that_it_receives_from(self, worker: Worker, standby: EngineHarness) -> None:
        standby.caller.cast("oslo_rpc_server_ping", source=H2)
        standby.engine.step(worker.now)
        assert (standby.engine.held, standby.engine.active) == ({H2}, {H2})
        worker.harness.engine.renew_leases()
        worker.step()
        assert worker.harness.engine.held == {H1, H3}

    def test_it_becomes_active_although_the_store_was_unavailable_at_first(
        self, worker: Worker, standby: EngineHarness
    ) -> None:
        standby.store.script["take_lease"] = [StoreUnavailable(reason="away")]
        standby.caller.cast("oslo_rpc_server_ping", source=H2)
        standby.engine.step(worker.now)
        assert standby.engine.held == frozenset()
        standby.engine.renew_leases()
        standby.engine.step(worker.now)
        assert standby.engine.active == {H2}

    def test_two_workers_do_not_take_a_lease_from_each_other_again_and_again(
        self, worker: Worker, standby: EngineHarness
    ) -> None:
        worker.harness.caller.cast("oslo_rpc_server_ping", source=H2)
        worker.step()
        standby.caller.cast("oslo_rpc_server_ping", source=H2)
        standby.engine.step(worker.now)
        for _ in range(3):
            for harness in (worker.harness, standby):
                harness.engine.renew_leases()
                harness.engine.step(worker.now)
            assert (H2 in worker.harness.engine.held, H2 in standby.engine.held) == (False, True)
        worker.harness.caller.cast("oslo_rpc_server_ping", source=H2)
        worker.step()
        assert H2 in worker.harness.engine.active

    def test_a_lost_connection_alone_makes_no_standby(self, worker: Worker) -> None:
        worker.harness.caller.cast("oslo_rpc_server_ping", source=H1)
        worker.step()
        worker.harness.engine.lost()
        worker.step()
        assert worker.harness.engine.active == set(HOSTS)
        worker.harness.engine.renew_leases()
        worker.step()
        assert worker.harness.engine.active == set(HOSTS)


def test_a_message_that_conflicts_for_ever_never_keeps_the_engine_busy(worker: Worker) -> None:
    """Under lock no race can be lost; should a store break that, the engine pauses between two attempts."""

    @contextmanager
    def broken(host_id: int) -> Iterator[LockedHost]:
        raise Conflict("a store that breaks its contract")
        yield

    worker.busy(H1)
    worker.store.inner.locked = broken  # type: ignore[method-assign]
    worker.begin(1, H1)
    passes = 0
    end = worker.now + 60
    while worker.now < end:
        worker.now += worker.step() or 0.01
        passes += 1
    assert worker.harness.counters.snapshot()["conflicts"] < 60
