# SPDX-License-Identifier: Apache-2.0
"""The contract of every bus: deliveries, their settlement, and empty queues."""

from __future__ import annotations

import time

from tests.support.bus import HOST_1, HOST_2, HOSTS, BusCase, MakeWorker, Outside, Worker, bodies, numbered
from tests.support.deadline import wait_until
from tracker_worker.bus.base import FANOUT, SHARED


class ReceiveContract(BusCase):
    def test_deliveries_are_in_order_and_name_their_source(self, outside: Outside, worker: Worker) -> None:
        for body in numbered(50):
            outside.publish(HOST_1, body)
        received = worker.listener.receive(50)
        assert bodies(received) == numbered(50)
        assert {delivery.source for delivery in received} == {HOST_1}
        assert {delivery.content_type for delivery in received} == {"application/json"}

    def test_messages_from_before_the_start_are_delivered_first(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        for body in numbered(3):
            outside.publish(HOST_1, body)
        worker = make_worker()
        worker.listener.receive(3)
        outside.publish(HOST_1, b"3")
        assert bodies(worker.listener.receive(4)) == numbered(4)

    def test_a_body_may_be_any_bytes(self, outside: Outside, worker: Worker) -> None:
        every = [bytes(range(256)), b"", "Žofie".encode(), b"\xff\xfe"]
        for body in every:
            outside.publish(HOST_1, body)
        received = bodies(worker.listener.receive(len(every)))
        assert received == every
        assert {type(body) for body in received} == {bytes}

    def test_a_delivery_has_the_headers_of_its_message(self, outside: Outside, worker: Worker) -> None:
        outside.publish(HOST_1, b"0", headers={"compression": "application/x-gzip", "number": 7})
        outside.publish(HOST_1, b"1")
        first, second = worker.listener.receive(2)
        assert dict(first.headers) == {"compression": "application/x-gzip", "number": 7}
        assert dict(second.headers) == {}

    def test_a_delivery_has_the_deadline_of_its_message(self, outside: Outside, worker: Worker) -> None:
        before = time.monotonic()
        outside.publish(HOST_1, b"0", expires_seconds=100)
        outside.publish(HOST_1, b"1")
        first, second = worker.listener.receive(2)
        assert first.deadline is not None
        assert before + 99 <= first.deadline <= time.monotonic() + 100
        assert second.deadline is None

    def test_a_delivery_names_its_host_the_shared_queue_or_fanout_as_its_source(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        worker = make_worker(HOSTS)
        wait_until(worker.bus.connected, "connected")
        for source in (*HOSTS, SHARED, FANOUT):
            for number in range(3):
                outside.publish(source, f"{source}-{number}".encode())
        worker.listener.receive(12)
        for source in (*HOSTS, SHARED, FANOUT):
            assert bodies(worker.listener.receive(3, source=source)) == [f"{source}-{n}".encode() for n in range(3)]

    def test_the_messages_of_another_host_wait_for_the_worker_of_that_host(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker([HOST_1])
        outside.publish(HOST_2, b"for 2")
        outside.publish(HOST_1, b"for 1")
        assert bodies(first.listener.receive(1)) == [b"for 1"]
        assert bodies(make_worker([HOST_2]).listener.receive(1)) == [b"for 2"]
        assert len(first.listener.deliveries) == 1


class SettleContract(BusCase):
    def test_unsettled_deliveries_are_redelivered_in_order_after_a_stop(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker()
        for body in numbered(20):
            outside.publish(HOST_1, body)
        received = first.listener.receive(20)
        first.bus.receiver.settle(received[:5])
        first.stop()
        outside.publish(HOST_1, b"20")
        assert bodies(make_worker().listener.receive(16)) == numbered(16, first=5)

    def test_settling_out_of_order_keeps_the_order_of_the_unsettled_deliveries(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker()
        for body in numbered(10):
            outside.publish(HOST_1, body)
        received = first.listener.receive(10)
        for number in (8, 1, 6, 0, 9):
            first.bus.receiver.settle([received[number]])
        first.stop()
        assert bodies(make_worker().listener.receive(5)) == [b"2", b"3", b"4", b"5", b"7"]

    def test_settling_a_delivery_twice_settles_no_other_delivery(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker()
        for body in numbered(3):
            outside.publish(HOST_1, body)
        received = first.listener.receive(3)
        for _ in range(2):
            first.bus.receiver.settle(received[:1])
        first.bus.receiver.settle([])
        first.stop()
        assert bodies(make_worker().listener.receive(2)) == [b"1", b"2"]

    def test_settling_a_delivery_from_before_a_stop_settles_no_later_delivery(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker()
        outside.publish(HOST_1, b"0")
        old = first.listener.receive(1)
        first.stop()
        first.bus.receiver.settle(old)
        again = make_worker(bus=first.bus)
        again.listener.receive(1)
        first.bus.receiver.settle(old)
        again.stop()
        assert bodies(make_worker().listener.receive(1)) == [b"0"]

    def test_a_paused_bus_takes_no_more_deliveries_and_still_settles_earlier_ones(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker()
        wait_until(first.bus.connected, "connected")
        second = make_worker()
        for body in numbered(3):
            outside.publish(HOST_1, body)
        received = first.listener.receive(3)
        first.bus.pause()
        for body in numbered(3, first=3):
            outside.publish(HOST_1, body)
        first.bus.receiver.settle(received[:2])
        first.stop()
        assert bodies(second.listener.receive(4)) == numbered(4, first=2)
        assert bodies(first.listener.deliveries) == numbered(3)


class LostContract(BusCase):
    def test_a_stop_reports_the_lost_connection_once_after_the_last_delivery(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        worker = make_worker()
        outside.publish(HOST_1, b"0")
        worker.listener.receive(1)
        worker.stop()
        worker.stop()
        outside.publish(HOST_1, b"1")
        assert worker.listener.lost_after == [1]
        assert bodies(make_worker().listener.receive(2)) == numbered(2)
        assert len(worker.listener.deliveries) == 1

    def test_a_delivery_is_current_until_the_stop_of_its_bus(self, outside: Outside, make_worker: MakeWorker) -> None:
        first = make_worker()
        outside.publish(HOST_1, b"0")
        (old,) = first.listener.receive(1)
        assert first.bus.receiver.is_current(old)
        first.stop()
        assert not first.bus.receiver.is_current(old)
        again = make_worker(bus=first.bus)
        (new,) = again.listener.receive(1)
        assert not first.bus.receiver.is_current(old)
        assert first.bus.receiver.is_current(new)


class EmptyContract(BusCase):
    """A worker wants to know whether it has read a queue to its end."""

    def test_an_empty_queue_is_reported_once_after_all_of_its_deliveries(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        for body in numbered(30):
            outside.publish(HOST_1, body)
        worker = make_worker()
        worker.bus.report_empty([HOST_1])
        assert worker.listener.hear_empty(1) == [(HOST_1, 30)]
        outside.publish(HOST_1, b"30")
        worker.listener.receive(31)
        assert len(worker.listener.emptied) == 1

    def test_a_queue_that_nobody_consumes_and_one_that_does_not_exist_may_be_asked_for(self, worker: Worker) -> None:
        worker.bus.report_empty([HOST_2, "no-such-host"])
        assert sorted(worker.listener.hear_empty(2)) == [(HOST_2, 0), ("no-such-host", 0)]

    def test_a_queue_in_which_a_message_waits_is_not_reported(
        self, outside: Outside, worker: Worker, make_worker: MakeWorker
    ) -> None:
        outside.publish(HOST_2, b"0")
        worker.bus.report_empty([HOST_2, HOST_1])
        assert worker.listener.hear_empty(1) == [(HOST_1, 0)]
        worker.bus.report_empty([HOST_2])
        other = make_worker([HOST_2])
        other.listener.receive(1)
        worker.bus.report_empty([HOST_2])
        assert worker.listener.hear_empty(2)[1] == (HOST_2, 0)

    def test_a_bus_that_is_not_started_may_be_asked(self, outside: Outside) -> None:
        outside.bus().report_empty([HOST_1])
