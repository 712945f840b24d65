# SPDX-License-Identifier: Apache-2.0
"""Which hosts a worker serves: its ledger's, as the marker on the broker says, looked at before anything is decided."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import pytest

from tests.support.builders import HOST, NOW
from tests.support.engine import ScriptedStore
from tracker_worker import new_history
from tracker_worker.bus.base import SHARED, Delivery, Listener, Marker, Markers, MarkerUnavailable
from tracker_worker.bus.memory import MemoryBroker, MemoryBus
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.ids import NewIds
from tracker_worker.service.chores.marker import Owner, owner, take
from tracker_worker.service.chores.ownership import Ownership
from tracker_worker.store.base import History, HostRecord, Store
from tracker_worker.store.memory import MemoryStore

OTHER = Marker(ledger_id="0192f0c1-0000-7000-8000-00000000000f", token="theirs")


class BrokenBus(MemoryBus):
    """A bus whose markers can be out of reach."""

    down = False
    look_first: Callable[[], None] = staticmethod(lambda: None)

    def markers(self) -> AbstractContextManager[Markers]:
        self.look_first()
        if self.down:
            raise MarkerUnavailable("no broker can be reached")
        return super().markers()


class Worker:
    """The part of a worker that decides which hosts it serves, on virtual time and without a thread."""

    def __init__(
        self, broker: MemoryBroker, store: Store, name: str = "worker-1", hosts: Sequence[str] = (HOST,)
    ) -> None:
        self.now = 1000.0
        self.wall = NOW
        self.broker = broker
        self.store = ScriptedStore(store)
        self.name = name
        self.bus = BrokenBus(broker)
        self.passed: list[Delivery] = []
        self.emptied: list[str] = []
        self.looked_again = False
        self.allowed: frozenset[str] = frozenset()
        self.hosts = hosts
        tokens = itertools.count(1)
        for host in hosts:
            self.store.register_host(host, topic="tracker", version="1", now=NOW)
        self.ownership = Ownership(
            store=self.store,
            bus=self.bus,
            hosts=hosts,
            worker=name,
            received=self.passed.extend,
            changed=self._changed,
            emptied=self.emptied.append,
            clock=lambda: self.wall,
            died=lambda error: pytest.fail(str(error)),
            monotonic=lambda: self.now,
            new_token=lambda: f"{name} {next(tokens)}",
        )
        self.bus.serve(())

    def _changed(self, hosts: frozenset[str]) -> None:
        self.allowed = hosts

    def begin(self) -> Worker:
        self.ownership.step(self.now)
        return self

    def connect(self) -> Worker:
        self.bus.start(
            self.hosts,
            Listener(
                received=self.ownership.received,
                lost=self.ownership.lost,
                opened=self.ownership.opened,
                emptied=self.ownership.emptied,
                confirmed=lambda keys: None,
                refused=lambda refusals: None,
                died=lambda error: None,
            ),
        )
        return self.step()

    def start(self) -> Worker:
        return self.begin().connect()

    def step(self, seconds: float = 0.0) -> Worker:
        self.now += seconds
        self.wall += int(seconds * SECOND)
        self.ownership.step(self.now)
        return self

    def lose_connection(self) -> None:
        self.bus.stop(0)
        self.passed.clear()

    def renew_lease(self) -> None:
        host_ids = [record.id for record in self.store.hosts()]
        self.store.take_lease(host_ids, self.name, now=self.wall, until=self.wall + 15 * SECOND, force=True)

    @property
    def record(self) -> HostRecord:
        return self.store.hosts()[0]

    @property
    def ledger_id(self) -> str:
        return self.store.histories()[-1].ledger_id


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def make_worker(broker: MemoryBroker) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(store: Store | None = None, **options: object) -> Worker:
        made.append(Worker(broker, store or MemoryStore(), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for worker in made:
        worker.bus.stop(0)


MakeWorker = Callable[..., Worker]


class TestOwner:
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


class TestTake:
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


class TestStart:
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


class TestStandby:
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


class TestConnections:
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


def fixed() -> MemoryStore:
    """A store whose ledger_id is always the same."""
    return MemoryStore(now=lambda: NOW, random_bytes=bytes)


def copy_of(worker: Worker) -> MemoryStore:
    """A store with the same ledger_id and tokens."""
    copied = fixed()
    assert copied.histories()[-1].ledger_id == worker.ledger_id
    host_id = copied.register_host(HOST, topic="tracker", version="1", now=NOW)
    for token in (worker.record.previous_token, worker.record.token):
        if token is not None:
            copied.renew_token(host_id, token)
    return copied


def begin_history(store: Store, predecessor: str) -> None:
    new_history.begin_history(store, predecessor=predecessor, reason="restored", now=NOW, new_id=NewIds())
