# SPDX-License-Identifier: Apache-2.0
"""The contract of markers, for every bus: what is written is seen, by everybody, however often they look."""

from __future__ import annotations

import threading

import pytest

from tests.support.bus import HOST_1, HOST_2, BusCase, MakeWorker, Outside
from tests.support.deadline import SECONDS, wait_until
from tracker_worker.bus.base import Marker, MarkerUnavailable

FIRST = Marker(ledger_id="0192f0c1-0000-7000-8000-000000000001", token="a")
SECOND = Marker(ledger_id="0192f0c1-0000-7000-8000-000000000002", token="b")


class MarkersContract(BusCase):
    def test_a_host_without_a_marker_is_nobodys(self, outside: Outside) -> None:
        with outside.bus().markers() as markers:
            assert markers.look(HOST_1) is None

    def test_a_marker_is_seen_by_every_bus_and_is_that_of_its_host_alone(self, outside: Outside) -> None:
        with outside.bus().markers() as markers, markers.locked(HOST_1):
            markers.write(HOST_1, FIRST)
        with outside.bus().markers() as markers:
            assert markers.look(HOST_1) == FIRST
            assert markers.look(HOST_2) is None

    def test_looking_does_not_wear_a_marker_out(self, outside: Outside) -> None:
        with outside.bus().markers() as markers:
            with markers.locked(HOST_1):
                markers.write(HOST_1, FIRST)
            for _ in range(30):
                assert markers.look(HOST_1) == FIRST

    def test_a_marker_that_is_written_again_replaces_the_one_before(self, outside: Outside) -> None:
        with outside.bus().markers() as markers:
            for marker in (FIRST, SECOND, FIRST, SECOND):
                with markers.locked(HOST_1):
                    markers.write(HOST_1, marker)
                    assert markers.look(HOST_1) == marker
        with outside.bus().markers() as markers:
            assert markers.look(HOST_1) == SECOND

    def test_only_one_may_write_the_marker_of_a_host(self, outside: Outside) -> None:
        with outside.bus().markers() as first, outside.bus().markers() as second:
            with first.locked(HOST_1):
                with pytest.raises(MarkerUnavailable), second.locked(HOST_1):
                    pass
                with second.locked(HOST_2):
                    second.write(HOST_2, SECOND)
            with second.locked(HOST_1):
                second.write(HOST_1, SECOND)
            assert first.look(HOST_1) == SECOND

    def test_many_who_look_and_write_at_once_never_see_a_host_without_its_marker(self, outside: Outside) -> None:
        with outside.bus().markers() as markers, markers.locked(HOST_1):
            markers.write(HOST_1, FIRST)
        seen: list[Marker | None] = []
        errors: list[BaseException] = []

        def look(writes: bool) -> None:
            try:
                with outside.bus().markers() as markers:
                    for number in range(20):
                        if writes and number % 4 == 0:
                            with markers.locked(HOST_1):
                                markers.write(HOST_1, SECOND)
                        seen.append(markers.look(HOST_1))
            except BaseException as error:  # noqa: BLE001 the test's thread reports it
                errors.append(error)

        threads = [threading.Thread(target=look, args=(number == 0,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert errors == []
        assert len(seen) == 60
        assert set(seen) <= {FIRST, SECOND}
        with outside.bus().markers() as markers:
            assert markers.look(HOST_1) == SECOND

    def test_the_consumers_of_a_queue_are_counted(self, outside: Outside, make_worker: MakeWorker) -> None:
        with outside.bus().markers() as markers:
            assert markers.consumers(HOST_1) == 0
            worker = make_worker([HOST_1])
            wait_until(lambda: markers.consumers(HOST_1) == 1, "a consumer")
            assert markers.consumers(HOST_2) == 0
            worker.stop()
            wait_until(lambda: markers.consumers(HOST_1) == 0, "no consumer")

    def test_a_queue_that_nobody_consumes_answers_no_ping(self, outside: Outside) -> None:
        with outside.bus().markers() as markers:
            assert not markers.answers(HOST_1)


class ServeContract(BusCase):
    def test_a_host_that_is_added_is_served_over_the_same_connection(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        bus = outside.bus()
        bus.serve([HOST_1])
        worker = make_worker([HOST_1, HOST_2], bus=bus)
        wait_until(bus.connected, "connected")
        outside.publish(HOST_2, b"for 2")
        outside.publish(HOST_1, b"for 1")
        worker.listener.receive(1)
        assert [delivery.body for delivery in worker.listener.deliveries] == [b"for 1"]
        bus.serve([HOST_1, HOST_2])
        assert worker.listener.receive(1, source=HOST_2)[0].body == b"for 2"
        assert worker.listener.lost_after == []
        assert worker.listener.opened == 1
        wait_until(bus.connected, "connected")

    def test_the_deliveries_of_a_host_that_is_left_out_return_to_its_queue(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker([HOST_1, HOST_2])
        outside.publish(HOST_1, b"0")
        outside.publish(HOST_1, b"1")
        first.listener.receive(2, source=HOST_1)
        first.bus.serve([HOST_2])
        second = make_worker([HOST_1])
        assert [delivery.body for delivery in second.listener.receive(2, source=HOST_1)] == [b"0", b"1"]
        assert first.listener.lost_after == [2]
        outside.publish(HOST_2, b"2")
        assert [delivery.body for delivery in first.listener.receive(1, source=HOST_2)] == [b"2"]
        assert first.listener.opened == 2
