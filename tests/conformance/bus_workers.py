# SPDX-License-Identifier: Apache-2.0
"""The contract of every bus: several workers, start and stop."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from tests.support.bus import (
    HOST_1,
    HOST_2,
    STOP_SECONDS,
    BusCase,
    MakeWorker,
    Outside,
    RecordingListener,
    bodies,
    numbered,
)
from tests.support.deadline import wait_until
from tests.support.startstop import stress
from tracker_worker.bus.base import FANOUT, SHARED


class ContactContract(BusCase):
    def test_a_bus_that_serves_says_what_it_consumes_and_when_it_has_heard_of_it(self, make_worker: MakeWorker) -> None:
        began = time.monotonic()
        worker = make_worker([HOST_1, HOST_2])
        wait_until(worker.bus.connected, "connected")
        contact = worker.bus.contact()
        assert (contact.consuming, contact.publishing, contact.problem) == (True, True, "")
        assert contact.consumed == {HOST_1, HOST_2, SHARED, FANOUT}
        assert contact.probed_since is not None
        assert began <= contact.probed_since <= time.monotonic()
        assert not contact.holds_back
        probed = time.monotonic()
        worker.bus.probe([HOST_1])
        wait_until(
            lambda: worker.bus.contact().heard.keys() == {HOST_1, SHARED, FANOUT}, lambda: f"{worker.bus.contact()}"
        )
        assert all(probed <= at <= time.monotonic() for at in worker.bus.contact().heard.values())
        wait_until(lambda: worker.bus.contact().silent_since is None, "all probes are answered")

    def test_any_delivery_is_heard(self, outside: Outside, make_worker: MakeWorker) -> None:
        worker = make_worker([HOST_1, HOST_2])
        outside.publish(HOST_2, b"0")
        worker.listener.receive(1, source=HOST_2)
        assert list(worker.bus.contact().heard) == [HOST_2]

    def test_a_standby_hears_only_that_its_queue_of_fanouts_is_there(self, make_worker: MakeWorker) -> None:
        active = make_worker([HOST_1])
        wait_until(active.bus.connected, "connected")
        standby = make_worker([HOST_1])
        wait_until(standby.bus.connected, "connected")
        standby.bus.probe([])
        wait_until(lambda: FANOUT in standby.bus.contact().heard, "the queue of fanouts is there")
        assert HOST_1 in standby.bus.contact().consumed
        assert HOST_1 not in standby.bus.contact().heard

    def test_what_is_not_served_is_not_consumed(self, make_worker: MakeWorker) -> None:
        worker = make_worker([HOST_1, HOST_2])
        wait_until(worker.bus.connected, "connected")
        worker.bus.serve([HOST_2])
        wait_until(lambda: worker.bus.contact().consumed == {HOST_2, SHARED, FANOUT}, lambda: f"{worker.bus.contact()}")

    def test_a_bus_that_is_not_started_or_is_stopped_has_no_contact(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        bus = outside.bus()
        assert (bus.contact().consuming, bus.contact().publishing, bus.contact().probed_since) == (False, False, None)
        worker = make_worker(bus=bus)
        wait_until(bus.connected, "connected")
        worker.stop()
        contact = bus.contact()
        assert (contact.consuming, contact.publishing, contact.probed_since) == (False, False, None)
        assert (contact.consumed, contact.heard) == (frozenset(), {})


class TwoWorkersContract(BusCase):
    def test_a_fanout_reaches_every_bus(self, outside: Outside, make_worker: MakeWorker) -> None:
        workers = [make_worker([HOST_1]), make_worker([HOST_1]), make_worker([HOST_2])]
        for worker in workers:
            wait_until(worker.bus.connected, "connected")
        for body in numbered(3):
            outside.publish(FANOUT, body)
        for worker in workers:
            assert bodies(worker.listener.receive(3, source=FANOUT)) == numbered(3)

    def test_a_shared_request_reaches_exactly_one_bus(self, outside: Outside, make_worker: MakeWorker) -> None:
        workers = [make_worker([HOST_1]), make_worker([HOST_2])]
        for worker in workers:
            wait_until(worker.bus.connected, "connected")
        for body in numbered(20):
            outside.publish(SHARED, body)

        def everything() -> list[bytes]:
            return sorted(body for worker in workers for body in bodies(worker.listener.deliveries))

        wait_until(lambda: len(everything()) >= 20, lambda: f"20 deliveries: {everything()}")
        assert everything() == sorted(numbered(20))

    def test_a_standby_gets_no_delivery_until_the_active_bus_stops_and_then_all_in_order(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        active = make_worker()
        wait_until(active.bus.connected, "connected")
        standby = make_worker()
        wait_until(standby.bus.connected, "connected")
        for body in numbered(10):
            outside.publish(HOST_1, body)
        active.bus.receiver.settle(active.listener.receive(10)[:4])
        assert standby.listener.deliveries == []
        active.stop()
        for body in numbered(5, first=10):
            outside.publish(HOST_1, body)
        assert bodies(standby.listener.receive(11)) == numbered(11, first=4)


class StartStopContract(BusCase):
    def test_a_bus_is_connected_from_its_start_to_its_stop(self, outside: Outside, make_worker: MakeWorker) -> None:
        bus = outside.bus()
        assert not bus.connected()
        worker = make_worker(bus=bus)
        wait_until(bus.connected, "connected")
        worker.stop()
        assert not bus.connected()

    def test_a_bus_may_be_started_again_after_a_stop(self, outside: Outside, make_worker: MakeWorker) -> None:
        bus = outside.bus()
        for number in range(3):
            worker = make_worker(bus=bus)
            outside.publish(HOST_1, b"%d" % number)
            assert bodies(worker.listener.receive(1)) == [b"%d" % number]
            bus.receiver.settle(worker.listener.deliveries)
            worker.stop()

    @pytest.mark.parametrize("connected", [False, True], ids=["at once", "when connected"])
    def test_start_and_stop_leave_no_thread_and_no_open_file(self, outside: Outside, connected: bool) -> None:
        def make() -> SimpleNamespace:
            bus = outside.bus()

            def start() -> None:
                bus.start([HOST_1], RecordingListener().as_listener())
                if connected:
                    wait_until(bus.connected, "connected")

            return SimpleNamespace(start=start, stop=lambda: bus.stop(STOP_SECONDS))

        stress(make)
