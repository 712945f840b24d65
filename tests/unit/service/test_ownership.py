# SPDX-License-Identifier: Apache-2.0
"""Which hosts a worker serves from its start: its ledger's, as the marker on the broker says."""

from __future__ import annotations

import pytest

from tests.support.builders import HOST
from tests.support.ownership import OTHER, MakeWorker, OwnershipCase, begin_history
from tracker_worker.bus.base import Marker, MarkerUnavailable
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.chores.marker import Owner, owner, take
from tracker_worker.store.base import History
from tracker_worker.store.memory import MemoryStore


class TestOwner(OwnershipCase):
    HISTORIES = (
        History(ledger_id="one", since=1, reason="", predecessor=None),
        History(ledger_id="two", since=2, reason="", predecessor="one"),
    )

    @pytest.mark.parametrize(
        ("marker", "found"),
        [
            (None, Owner.NOBODY),
            (Marker(ledger_id="two", token="now"), Owner.SELF),
            (Marker(ledger_id="two", token="before"), Owner.SELF),
            (Marker(ledger_id="two", token="long before"), Owner.COPY),
            (Marker(ledger_id="two", token=""), Owner.COPY),
            (Marker(ledger_id="one", token="whatever"), Owner.PREDECESSOR),
            (Marker(ledger_id="three", token="now"), Owner.ANOTHER),
        ],
    )
    def test_a_marker_is_that_of_a_history_and_of_one_of_the_last_two_starts(
        self, make_worker: MakeWorker, marker: Marker | None, found: Owner
    ) -> None:
        worker = make_worker()
        for token in ("long before", "before", "now"):
            worker.store.renew_token(worker.record.id, token)
        assert owner(marker, self.HISTORIES, worker.record) is found


class TestTake(OwnershipCase):
    def test_the_token_is_in_the_database_before_it_is_on_the_broker(self, make_worker: MakeWorker) -> None:
        worker = make_worker()
        worker.start()
        worker.store.script["renew_token"] = [StoreUnavailable(reason="down")]
        before = worker.broker.markers[HOST]
        with worker.bus.markers() as markers, pytest.raises(StoreUnavailable):
            take(worker.store, markers, worker.store.histories(), worker.record, new_token=lambda: "new")
        assert worker.broker.markers[HOST] == before

    def test_a_token_that_another_start_has_renewed_meanwhile_leaves_the_owner_the_owner(
        self, make_worker: MakeWorker
    ) -> None:
        worker = make_worker().begin()
        store, seen = worker.store, worker.record
        store.renew_token(seen.id, "of a start that was broken off")
        with worker.bus.markers() as markers:
            written: list[str] = []
            markers.write = lambda host, marker: written.append(marker.token)  # type: ignore[method-assign]
            assert take(store, markers, store.histories(), seen, new_token=lambda: "new")
        assert written == ["of a start that was broken off", "new"]

    def test_a_host_that_the_database_has_no_more_keeps_its_marker(self, make_worker: MakeWorker) -> None:
        worker = make_worker().begin()
        store, seen, marker = worker.store, worker.record, worker.broker.markers[HOST]
        with worker.bus.markers() as markers:
            store.script["renew_token"] = [lambda: store.inner.forget_host(seen.id)]
            for _ in range(2):  # it goes after, and then before the look at the database
                with pytest.raises(MarkerUnavailable, match="no such host"):
                    take(store, markers, store.histories(), seen, new_token=lambda: "new")
        assert worker.broker.markers[HOST] == marker

    def test_starts_that_are_broken_off_between_database_and_broker_leave_the_owner_the_owner(
        self, make_worker: MakeWorker
    ) -> None:
        store = MemoryStore()
        make_worker(store).begin()
        for number in range(10):
            worker = make_worker(store, name=f"worker-{number}")
            worker.store.renew_token(worker.record.id, f"not on the broker {number}")
            assert worker.begin().ownership.served() == (HOST,)
            assert worker.broker.markers[HOST].token == worker.record.token


class TestStart(OwnershipCase):
    def test_a_host_without_a_marker_is_taken_before_it_is_consumed(self, make_worker: MakeWorker) -> None:
        worker = make_worker().begin()
        assert worker.broker.markers[HOST] == Marker(ledger_id=worker.ledger_id, token=worker.record.token or "")
        assert worker.broker.consumers(HOST) == 0
        assert worker.allowed == {HOST}
        worker.connect()
        assert worker.broker.consumers(HOST) == 1
        assert worker.ownership.settled()

    def test_every_start_renews_the_token(self, make_worker: MakeWorker) -> None:
        store = MemoryStore()
        tokens = []
        for number in range(3):
            worker = make_worker(store, name=f"worker-{number}").start()
            tokens.append(worker.broker.markers[HOST].token)
            worker.bus.stop(0)
        assert len(set(tokens)) == 3
        assert (worker.record.token, worker.record.previous_token) == (tokens[2], tokens[1])

    def test_another_ledgers_host_is_not_served_whatever_happens_to_the_other_worker(
        self, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = make_worker().start(), make_worker(name="worker-2").start()
        first.bus.stop(0)
        for _ in range(5):
            second.step(5)
        assert (second.ownership.served(), second.ownership.refused(), second.allowed) == ((), (HOST,), frozenset())
        assert not second.ownership.settled()
        assert second.broker.consumers(HOST) == 0
        (error,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        for part in (first.ledger_id, second.ledger_id, f"tracker-worker host adopt {HOST}"):
            assert part in error

    def test_a_worker_serves_the_hosts_that_are_its_ledgers(self, make_worker: MakeWorker) -> None:
        make_worker().start()
        second = make_worker(name="worker-2", hosts=(HOST, "host-2")).start()
        assert second.ownership.served() == ("host-2",)
        assert second.ownership.refused() == (HOST,)
        assert second.ownership.settled()
        assert second.broker.consumers("host-2") == 1

    def test_a_refused_worker_serves_soon_after_the_marker_has_become_its_own(self, make_worker: MakeWorker) -> None:
        worker = make_worker()
        worker.broker.markers[HOST] = OTHER
        worker.start()
        assert worker.ownership.refused() == (HOST,)
        del worker.broker.markers[HOST]
        assert worker.step(4).ownership.refused() == (HOST,)
        assert worker.step(2).ownership.served() == (HOST,)
        assert worker.broker.consumers(HOST) == 1

    def test_a_refused_host_that_an_operator_removes_from_the_database_disturbs_nothing(
        self, make_worker: MakeWorker
    ) -> None:
        worker = make_worker(hosts=(HOST, "host-2"))
        worker.broker.markers[HOST] = OTHER
        worker.start()
        worker.store.forget_host(worker.record.id)
        for _ in range(3):
            worker.step(6)
        assert worker.ownership.served() == ("host-2",)

    def test_without_a_broker_nothing_is_decided_and_nothing_is_consumed(self, make_worker: MakeWorker) -> None:
        worker = make_worker()
        worker.bus.down = True
        worker.start()
        assert (worker.ownership.served(), worker.ownership.refused()) == ((), ())
        assert worker.broker.consumers(HOST) == 0
        assert not worker.ownership.settled()
        worker.bus.down = False
        assert worker.step(1).ownership.served() == (HOST,)
        assert worker.broker.consumers(HOST) == 1

    def test_a_successor_is_served_and_the_marker_names_it(self, make_worker: MakeWorker) -> None:
        worker = make_worker()
        worker.start()
        old = worker.ledger_id
        begin_history(worker.store, old)
        worker.step(6)
        assert worker.broker.markers[HOST].ledger_id == worker.ledger_id != old
        assert worker.ownership.served() == (HOST,)
