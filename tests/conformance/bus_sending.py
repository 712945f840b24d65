# SPDX-License-Identifier: Apache-2.0
"""The contract of every bus: replies, dead letters, notifications and probes."""

from __future__ import annotations

from tests.support.bus import HOST_1, HOST_2, BusCase, MakeWorker, Outside, Worker, bodies, keys, numbered, outgoing
from tests.support.deadline import wait_until
from tests.support.store import at_once
from tracker_worker.bus.base import PING, SHARED, DeadLetter, Delivery, Publication, Reply, Settlement
from tracker_worker.wire.message import ReplyTo
from tracker_worker.wire.request import decode_request

NOBODY = ReplyTo("reply_of_nobody", "m-1")


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

    def test_a_notification_of_several_messages_is_in_order_and_confirmed_once_when_all_are_there(
        self, outside: Outside, worker: Worker
    ) -> None:
        several = [
            Publication(key=number, topic="notifications", priority="INFO", bodies=(b"%d a" % number, b"%d b" % number))
            for number in range(50)
        ]
        worker.bus.sender.send([*several, *outgoing([b"last"])])
        expected = [body for each in several for body in each.bodies]
        assert [outside.take_notification() for _ in range(101)] == [*expected, b"last"]
        assert worker.listener.confirm(51) == [*range(50), *keys([b"last"])]
        worker.stop()
        assert len(worker.listener.confirmed) == 51

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
