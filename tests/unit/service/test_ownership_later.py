# SPDX-License-Identifier: Apache-2.0
"""Which hosts a worker serves beside others and on later connections: the marker is looked at before anything is decided."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.builders import HOST, NOW
from tests.support.ownership import OTHER, MakeWorker, OwnershipCase, Worker, copy_of, fixed
from tracker_worker.bus.base import SHARED, Marker, Markers
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.chores.standing import HostStanding
from tracker_worker.store.memory import MemoryStore


class TestRounds(OwnershipCase):
    """Looking at many hosts takes long, and deliveries of some of them arrive meanwhile."""

    HOSTS = tuple(f"h{number}" for number in range(1, 9))

    def looks(self, worker: Worker, monkeypatch: pytest.MonkeyPatch, arrives: Callable[[str], object]) -> list[str]:
        """The hosts in the order in which they are looked at from now on. ``arrives`` is called behind each look."""
        looked: list[str] = []
        examine = worker.ownership._examine

        def noted(markers: Markers, host: HostStanding) -> bool:
            looked.append(host.name)
            served = examine(markers, host)
            arrives(host.name)
            return served

        monkeypatch.setattr(worker.ownership, "_examine", noted)
        return looked

    def test_hosts_with_deliveries_and_the_others_take_turns(
        self, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = make_worker(hosts=self.HOSTS).begin()
        passed: dict[str, int] = {}

        def arrives(host: str) -> None:
            passed.update({delivery.source: len(looked) for delivery in worker.passed if delivery.source not in passed})
            if len(looked) == 1:
                for each in (SHARED, "h7", "h8"):
                    worker.broker.publish(each, b"0")

        looked = self.looks(worker, monkeypatch, arrives)
        worker.connect().step()
        assert looked[:5] == ["h1", "h7", "h2", "h8", "h3"]
        assert sorted(looked) == sorted(self.HOSTS)
        assert passed["h7"] == 3
        assert {delivery.source for delivery in worker.passed} == {SHARED, "h7", "h8"}

    def test_what_arrives_in_a_round_is_decided_on_what_the_database_says_since(
        self, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = make_worker(hosts=self.HOSTS).begin()
        reads: list[int] = []

        def arrives(host: str) -> None:
            reads.append(worker.store.calls.count("hosts"))
            if host == "h3" and not worker.passed:
                worker.broker.publish("h1", b"0")

        looked = self.looks(worker, monkeypatch, arrives)
        worker.store.calls.clear()
        worker.connect().step()
        again = len(looked) - 1 - looked[::-1].index("h1")
        assert reads[again] == reads[again - 1] + 1
        assert [delivery.source for delivery in worker.passed] == ["h1"]

    def test_what_is_served_follows_each_look(self, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
        worker = make_worker(hosts=self.HOSTS)
        served: list[int] = []
        self.looks(worker, monkeypatch, lambda host: served.append(len(worker.ownership.served())))
        worker.begin()
        assert served == [*range(1, 9)]
        worker.broker.markers["h4"] = OTHER
        worker.connect().step()
        assert worker.ownership.served() == tuple(host for host in self.HOSTS if host != "h4")


class TestStandby(OwnershipCase):
    def test_a_consumer_whose_lease_is_renewed_in_this_database_makes_this_worker_a_standby(
        self, make_worker: MakeWorker
    ) -> None:
        store = MemoryStore()
        first = make_worker(store).start()
        first.renew_lease()
        token = first.broker.markers[HOST].token
        second = make_worker(store, name="worker-2").start()
        assert second.ownership.served() == ()
        assert second.step(2).ownership.served() == ()
        first.step(5).renew_lease()
        assert second.step(3).ownership.served() == (HOST,)
        assert second.broker.consumers(HOST) == 2
        assert second.broker.markers[HOST].token == token

    def test_a_standby_renews_the_token_when_it_has_become_active(self, make_worker: MakeWorker) -> None:
        store = MemoryStore()
        first = make_worker(store).start()
        first.renew_lease()
        second = make_worker(store, name="worker-2").start()
        first.step(5).renew_lease()
        second.step(5)
        first.bus.stop(0)
        second.broker.publish(HOST, b"0")
        second.step()
        assert [delivery.body for delivery in second.passed] == [b"0"]
        second.step(6)
        assert second.broker.markers[HOST].token == second.record.token == "worker-2 1"

    def test_a_consumer_without_a_lease_in_this_database_works_on_another_one(self, make_worker: MakeWorker) -> None:
        original = make_worker(fixed()).start()
        copy = make_worker(copy_of(original), name="copy")
        copy.store.take_lease([copy.record.id], "worker-1", now=NOW, until=NOW + 15 * SECOND, force=True)
        copy.start()
        for _ in range(14):
            assert copy.step(1).ownership.served() == ()
        for _ in range(5):
            copy.step(1)
        assert copy.ownership.refused() == (HOST,)
        original.bus.stop(0)
        assert copy.step(6).ownership.refused() == (HOST,)  # the original was alive beside this one
        restarted = make_worker(original.store.inner, name="restarted").start()
        assert restarted.ownership.served() == (HOST,)

    def test_an_earlier_copy_is_not_served(self, make_worker: MakeWorker) -> None:
        original = make_worker(fixed()).start()
        copied = copy_of(original)
        original.bus.stop(0)
        make_worker(original.store.inner, name="again").start().bus.stop(0)
        make_worker(original.store.inner, name="and again").start().bus.stop(0)
        assert make_worker(copied, name="copy").start().ownership.refused() == (HOST,)


class TestConnections(OwnershipCase):
    def test_a_delivery_waits_until_its_host_was_looked_at(self, make_worker: MakeWorker) -> None:
        worker = make_worker().start()
        for body in (b"0", b"1"):
            worker.broker.publish(HOST, body)
        assert worker.passed == []
        worker.step()
        worker.broker.publish(HOST, b"2")
        assert [delivery.body for delivery in worker.passed] == [b"0", b"1", b"2"]

    def test_a_queue_is_empty_when_what_waits_of_it_was_passed_on(self, make_worker: MakeWorker) -> None:
        worker = make_worker().start()
        worker.bus.report_empty([HOST])
        worker.broker.publish(HOST, b"0")
        worker.bus.report_empty([HOST])
        assert (worker.passed, worker.emptied) == ([], [HOST])
        worker.step()
        assert (len(worker.passed), worker.emptied) == (1, [HOST, HOST])
        worker.lose_connection()
        worker.connect()
        worker.broker.publish(HOST, b"1")
        worker.step()
        assert (len(worker.passed), worker.emptied) == (2, [HOST, HOST])

    def test_a_host_whose_marker_has_changed_is_given_up_at_its_first_delivery(self, make_worker: MakeWorker) -> None:
        worker = make_worker().start()
        worker.broker.markers[HOST] = OTHER
        worker.broker.publish(HOST, b"0")
        worker.step()
        assert worker.passed == []
        assert worker.allowed == frozenset()
        assert worker.broker.consumers(HOST) == 0
        owner = make_worker(name="worker-2")
        owner.broker.markers[HOST] = Marker(ledger_id=owner.ledger_id, token="x")
        owner.store.renew_token(owner.record.id, "x")
        owner.start().step()
        assert [delivery.body for delivery in owner.passed] == [b"0"]

    def test_after_each_loss_of_the_connection_the_marker_is_looked_at_before_the_queue_is_consumed(
        self, make_worker: MakeWorker
    ) -> None:
        worker = make_worker().start()
        worker.broker.publish(HOST, b"0")
        worker.step()
        worker.lose_connection()
        worker.broker.markers[HOST] = OTHER
        worker.connect()
        assert worker.broker.consumers(HOST) == 0
        assert worker.ownership.refused() == (HOST,)

    def test_what_was_seen_before_a_connection_was_opened_does_not_count_for_it(self, make_worker: MakeWorker) -> None:
        worker = make_worker().start()
        look = worker.bus.look_first

        def reconnect() -> None:
            worker.bus.look_first = look
            worker.ownership.lost()
            worker.ownership.opened()
            worker.bus.look_first = lambda: setattr(worker, "looked_again", True)

        worker.broker.publish(HOST, b"0")
        worker.bus.look_first = reconnect
        worker.step()
        assert worker.passed == []
        worker.step()
        assert worker.looked_again
        assert worker.broker.consumers(HOST) == 1

    def test_a_store_that_is_away_keeps_no_host_of_this_ledger_from_being_served_again(
        self, make_worker: MakeWorker
    ) -> None:
        worker = make_worker().start()
        worker.lose_connection()
        for method in ("histories", "hosts"):
            worker.store.script[method] = [StoreUnavailable(reason="down")] * 5
        worker.broker.publish(HOST, b"0")
        worker.connect().step()
        assert [delivery.body for delivery in worker.passed] == [b"0"]

    def test_the_shared_queue_waits_until_it_is_decided_about_every_host(self, make_worker: MakeWorker) -> None:
        worker = make_worker()
        worker.bus.down = True
        worker.start()
        worker.broker.publish(SHARED, b"0")
        assert worker.step(1).passed == []
        worker.bus.down = False
        assert [delivery.body for delivery in worker.step(1).passed] == [b"0"]
