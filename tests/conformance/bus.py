# SPDX-License-Identifier: Apache-2.0
"""The contract of every bus. An implementation is tested by a subclass of ``BusContract`` that provides the fixture
``outside``.

To show that a message does not arrive, a test waits for a later message of the same queue.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from tests.support.bus import (
    HOST_1,
    HOST_2,
    HOSTS,
    STOP_SECONDS,
    BusCase,
    MakeWorker,
    Outside,
    RecordingListener,
    Worker,
    bodies,
    keys,
    numbered,
    outgoing,
)
from tests.support.deadline import wait_until
from tests.support.startstop import stress
from tests.support.store import at_once
from tracker_worker.bus.base import FANOUT, PING, SHARED, DeadLetter, Delivery, Reply, Settlement
from tracker_worker.wire.message import ReplyTo
from tracker_worker.wire.request import decode_request

NOBODY = ReplyTo("reply_of_nobody", "m-1")


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


class TellContract(BusCase):
    def test_a_reply_reaches_its_queue_and_settles_its_delivery(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker()
        reply_to = outside.open_replies()
        for body in numbered(2):
            outside.publish(HOST_1, body)
        first.bus.sender.send([Reply(delivery=first.listener.receive(2)[0], reply_to=reply_to, body=b"the reply")])
        assert outside.take_reply(reply_to) == b"the reply"
        first.stop()
        assert bodies(make_worker().listener.receive(1)) == [b"1"]

    def test_a_reply_to_a_delivery_that_is_settled_already_is_sent_and_settles_no_other_delivery(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        """A called audit is settled when it begins to wait; its reply follows, with nothing of the message but the token."""
        first = make_worker()
        reply_to = outside.open_replies()
        for body in numbered(3):
            outside.publish(HOST_1, body)
        early = first.listener.receive(3)[0]
        bare = Delivery(body=b"", source=early.source, deadline=early.deadline, token=early.token)
        first.bus.sender.send([Settlement(delivery=early)])
        for delivery in (early, bare):
            first.bus.sender.send([Reply(delivery=delivery, reply_to=reply_to, body=b"late")])
            assert outside.take_reply(reply_to) == b"late"
        first.bus.sender.send([Settlement(delivery=bare)])
        first.stop()
        assert bodies(make_worker().listener.receive(2)) == [b"1", b"2"]

    def test_replies_are_in_order_including_those_sent_just_before_the_stop(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker()
        reply_to = outside.open_replies()
        for body in numbered(30):
            outside.publish(HOST_1, body)
        for delivery in first.listener.receive(30):
            first.bus.sender.send([Reply(delivery=delivery, reply_to=reply_to, body=b"re " + delivery.body)])
        first.stop()
        assert [outside.take_reply(reply_to) for _ in range(30)] == [b"re " + body for body in numbered(30)]
        outside.publish(HOST_1, b"last")
        assert bodies(make_worker().listener.receive(1)) == [b"last"]

    def test_a_heartbeat_settles_no_delivery(self, outside: Outside, make_worker: MakeWorker) -> None:
        first = make_worker()
        reply_to = outside.open_replies()
        outside.publish(HOST_1, b"0")
        first.listener.receive(1)
        wait_until(first.bus.connected, "it publishes too: a heartbeat may be lost otherwise")
        first.bus.sender.heartbeat(reply_to, b"still at it")
        assert outside.take_reply(reply_to) == b"still at it"
        first.stop()
        assert bodies(make_worker().listener.receive(1)) == [b"0"]

    def test_a_reply_to_a_missing_queue_delays_no_other_reply_and_is_settled(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker()
        reply_to = outside.open_replies()
        for body in numbered(20):
            outside.publish(HOST_1, body)
        for number, delivery in enumerate(first.listener.receive(20)):
            first.bus.sender.heartbeat(NOBODY, b"lost")
            first.bus.sender.send(
                [Reply(delivery=delivery, reply_to=reply_to if number % 2 else NOBODY, body=delivery.body)]
            )
        assert [outside.take_reply(reply_to) for _ in range(10)] == numbered(20)[1::2]
        first.stop()
        outside.publish(HOST_1, b"last")
        assert bodies(make_worker().listener.receive(1)) == [b"last"]

    def test_a_parked_message_is_unchanged_has_the_reason_and_is_settled(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        first = make_worker()
        outside.publish(HOST_1, b"\xff no request", headers={"x-from": "a scheduler"}, expires_seconds=100)
        outside.publish(HOST_1, b"1")
        first.bus.sender.send(
            [DeadLetter(delivery=first.listener.receive(2)[0], reason="invalid_input: it is none: ž")]
        )
        parked = outside.take_parked()
        assert parked.body == b"\xff no request"
        assert parked.headers["x-from"] == "a scheduler"
        assert parked.headers["x-tracker-reason"] == "invalid_input: it is none: ž"
        first.stop()
        assert bodies(make_worker().listener.receive(1)) == [b"1"]

    def test_notifications_are_in_order_and_each_is_confirmed_once(self, outside: Outside, worker: Worker) -> None:
        worker.bus.sender.send([])
        for first in range(0, 100, 10):
            worker.bus.sender.send(outgoing(numbered(10, first=first)))
        assert [outside.take_notification() for _ in range(100)] == numbered(100)
        assert worker.listener.confirm(100) == keys(numbered(100))
        worker.stop()
        assert len(worker.listener.confirmed) == 100

    def test_a_notification_sent_just_before_the_stop_is_published_and_confirmed(
        self, outside: Outside, worker: Worker
    ) -> None:
        wait_until(worker.bus.connected, "connected")
        worker.bus.sender.send(outgoing(numbered(50)))
        worker.stop()
        assert worker.listener.confirmed == keys(numbered(50))
        assert [outside.take_notification() for _ in range(50)] == numbered(50)

    def test_several_threads_may_send_at_the_same_time(self, outside: Outside, worker: Worker) -> None:
        reply_to = outside.open_replies()
        for body in numbered(40):
            outside.publish(HOST_1, body)
        received = worker.listener.receive(40)

        def tell(number: int) -> None:
            for index in range(number, 40, 4):
                worker.bus.sender.send(outgoing([received[index].body]))
                worker.bus.sender.send([Reply(delivery=received[index], reply_to=reply_to, body=received[index].body)])

        at_once(*(lambda number=number: tell(number) for number in range(4)))  # type: ignore[misc]
        assert sorted(worker.listener.confirm(40)) == sorted(keys(numbered(40)))
        told = [outside.take_notification() for _ in range(40)]
        replies = [outside.take_reply(reply_to) for _ in range(40)]
        for number in range(4):
            of_thread = numbered(40)[number::4]
            assert [body for body in told if body in of_thread] == of_thread
            assert [body for body in replies if body in of_thread] == of_thread


class RepairContract(BusCase):
    def test_a_probe_is_a_cast_that_reaches_the_worker_of_its_host_and_a_worker_of_the_shared_queue(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        worker = make_worker([HOST_1])
        other = make_worker([HOST_2])
        for each in (worker, other):
            wait_until(each.bus.connected, "connected")
        other.bus.probe([HOST_1])
        (probe,) = worker.listener.receive(1, source=HOST_1)
        request = decode_request(probe.body, content_type=probe.content_type)
        assert (request.method, request.args, request.reply_to) == (PING, {}, None)
        worker.bus.receiver.settle([probe])
        wait_until(lambda: [d for w in (worker, other) for d in w.listener.deliveries if d.source == SHARED], "a probe")

    def test_a_probe_leaves_nothing_in_a_queue_that_nobody_consumes(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        worker = make_worker([HOST_1])
        wait_until(worker.bus.connected, "connected")
        worker.bus.probe([HOST_1, HOST_2])
        worker.listener.receive(1, source=HOST_1)
        outside.publish(HOST_2, b"0")
        assert bodies(make_worker([HOST_2]).listener.receive(1, source=HOST_2)) == [b"0"]

    def test_a_bus_that_is_not_started_or_is_stopped_may_be_told_to_probe_and_to_repair(
        self, outside: Outside, make_worker: MakeWorker
    ) -> None:
        bus = outside.bus()
        bus.probe([HOST_1])
        bus.repair()
        worker = make_worker(bus=bus)
        worker.stop()
        bus.probe([HOST_1])
        bus.repair()
        outside.publish(HOST_1, b"0")
        assert bodies(make_worker().listener.receive(1)) == [b"0"]

    def test_a_repair_where_nothing_is_gone_changes_nothing(self, outside: Outside, worker: Worker) -> None:
        wait_until(worker.bus.connected, "connected")
        for first in range(0, 100, 10):
            for body in numbered(10, first=first):
                outside.publish(HOST_1, body)
            worker.bus.repair()
            worker.bus.sender.send(outgoing(numbered(1, first=first)))
        assert bodies(worker.listener.receive(100)) == numbered(100)
        worker.listener.confirm(10)
        assert worker.bus.connected()
        assert worker.listener.lost_after == []


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


class BusContract(
    ReceiveContract,
    EmptyContract,
    SettleContract,
    LostContract,
    TellContract,
    RepairContract,
    TwoWorkersContract,
    StartStopContract,
):
    """The whole contract."""
