# SPDX-License-Identifier: Apache-2.0
"""Which hosts a worker serves beside others and on later connections: the marker is looked at before anything is decided."""

from __future__ import annotations

from tests.support.builders import HOST, NOW
from tests.support.ownership import OTHER, MakeWorker, OwnershipCase, copy_of, fixed
from tracker_worker.bus.base import SHARED, Marker
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.memory import MemoryStore


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
