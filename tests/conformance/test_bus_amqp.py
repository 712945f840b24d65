# SPDX-License-Identifier: Apache-2.0
"""The bus on RabbitMQ keeps the contract on queues of both types, and survives the loss of its connections."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import amqp
import pytest

from tests.conformance.bus import BusContract
from tests.conformance.bus_amqp import Broker
from tests.conformance.bus_sending import NOBODY
from tests.conformance.markers import FIRST, SECOND, MarkersContract, ServeContract
from tests.support.bus import (
    HOST_1,
    HOST_2,
    HOSTS,
    BusCase,
    MakeWorker,
    Worker,
    bodies,
    keys,
    numbered,
    outgoing,
)
from tests.support.deadline import wait_until
from tracker_worker.bus.amqp.bus import AMQPBus
from tracker_worker.bus.base import FANOUT, SHARED, DeadLetter, MarkerUnavailable, Reply
from tracker_worker.wire.message import ReplyTo


@pytest.fixture(params=["quorum", "classic"])
def queue_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def broker(broker_vhost: str, queue_type: str) -> Iterator[Broker]:
    broker = Broker(broker_vhost, bus__queue_type=queue_type)
    yield broker
    broker.close()


class AMQPCase(BusCase):
    @pytest.fixture
    def outside(self, broker: Broker) -> Broker:
        return broker


class TestAMQPBus(BusContract, MarkersContract, ServeContract, AMQPCase):
    """The whole contract, on both types of queues."""


class TestMarkers(AMQPCase):
    def test_the_marker_is_one_message_that_survives_a_restart(self, broker: Broker) -> None:
        with broker.bus().markers() as markers:
            for marker in (FIRST, SECOND):
                with markers.locked(HOST_1):
                    markers.write(HOST_1, marker)
            for _ in range(12):
                markers.look(HOST_1)
        wait_until(lambda: broker.count(f"tracker_ledger.{HOST_1}") == 1, "the message is given back")
        message = broker.take(f"tracker_ledger.{HOST_1}")
        assert message.properties["delivery_mode"] == 2
        assert int(message.properties.get("application_headers", {}).get("x-delivery-count", 0)) < 10

    def test_an_empty_queue_means_to_look_again_and_not_that_nobody_owns_the_host(self, broker: Broker) -> None:
        with broker.bus().markers() as markers:
            with markers.locked(HOST_1):
                markers.write(HOST_1, FIRST)
            broker.take(f"tracker_ledger.{HOST_1}")
            with pytest.raises(MarkerUnavailable, match=f"tracker_ledger.{HOST_1} is empty"):
                markers.look(HOST_1)
            with markers.locked(HOST_1):
                markers.write(HOST_1, SECOND)
            assert markers.look(HOST_1) == SECOND

    def test_a_message_that_is_held_meanwhile_does_not_come_back_in_place_of_a_later_one(self, broker: Broker) -> None:
        with broker.bus().markers() as markers:
            with markers.locked(HOST_1):
                markers.write(HOST_1, FIRST)
            held = broker.channel.basic_get(f"tracker_ledger.{HOST_1}")
            with markers.locked(HOST_1):
                markers.write(HOST_1, SECOND)
            broker.channel.basic_reject(held.delivery_tag, requeue=True)
            assert {markers.look(HOST_1) for _ in range(10)} == {SECOND}

    def test_a_message_that_no_worker_has_written_is_the_marker_of_another_ledger(self, broker: Broker) -> None:
        with broker.bus().markers() as markers:
            with markers.locked(HOST_1):
                markers.write(HOST_1, FIRST)
            broker.channel.basic_publish_confirm(
                amqp.Message(b"\xff what is this?"), routing_key=f"tracker_ledger.{HOST_1}"
            )
            found = markers.look(HOST_1)
        assert found is not None
        assert "what is this?" in found.ledger_id

    def test_without_a_broker_a_marker_is_out_of_sight(self, broker: Broker) -> None:
        broker.lines.cut()
        with pytest.raises(MarkerUnavailable, match="no broker can be reached"), broker.bus().markers():
            pass


class TestLostConnection(AMQPCase):
    def test_unsettled_deliveries_are_redelivered_in_order(self, broker: Broker, worker: Worker) -> None:
        for body in numbered(10):
            broker.publish(HOST_1, body)
        received = worker.listener.receive(10)
        worker.bus.receiver.settle(received[:3])
        wait_until_acknowledged(broker, worker, received[3:])

        lose_connections(broker, worker)

        again = worker.listener.receive(17, source=HOST_1)[10:]
        assert bodies(again) == numbered(7, first=3)
        worker.bus.receiver.settle(again)
        worker.stop()
        assert broker.count(f"tracker.{HOST_1}") == 0

    def test_a_lost_connection_is_reported_before_the_first_redelivery(self, broker: Broker, worker: Worker) -> None:
        for body in numbered(3):
            broker.publish(HOST_1, body)
        old = worker.listener.receive(3)
        lose_connections(broker, worker)
        new = worker.listener.receive(6)[3:]
        assert worker.listener.lost_after == [3]
        current = worker.bus.receiver.is_current
        assert [current(delivery) for delivery in (*old, *new)] == [False] * 3 + [True] * 3

    def test_settling_a_delivery_of_the_old_connection_settles_none_of_the_new_connection(
        self, broker: Broker, make_worker: MakeWorker
    ) -> None:
        worker = make_worker()
        for body in numbered(3):
            broker.publish(HOST_1, body)
        old = worker.listener.receive(3)
        lose_connections(broker, worker)
        worker.listener.receive(6)
        worker.bus.receiver.settle(old)
        worker.stop()
        assert bodies(make_worker().listener.receive(3)) == numbered(3)

    def test_notifications_sent_without_a_connection_are_published_later_in_order(
        self, broker: Broker, worker: Worker
    ) -> None:
        wait_until(worker.bus.connected, "connected")
        worker.bus.sender.send(outgoing(numbered(5)))
        worker.listener.confirm(5)
        broker.lines.cut()
        wait_until(lambda: not worker.bus.connected(), "disconnected")
        for first in (5, 10):
            worker.bus.sender.send(outgoing(numbered(5, first=first)))
        assert len(worker.listener.confirmed) == 5
        broker.lines.mend()
        assert worker.listener.confirm(15) == keys(numbered(15))
        assert broker.take_all("notifications.info", b"14") == numbered(15)

    def test_replies_and_dead_letters_sent_without_a_connection_are_published_later(
        self, broker: Broker, worker: Worker
    ) -> None:
        reply_to = broker.open_replies()
        for body in numbered(2):
            broker.publish(HOST_1, body)
        called, cast = worker.listener.receive(2)
        broker.lines.cut()
        wait_until(lambda: not worker.bus.connected(), "disconnected")
        worker.bus.sender.send([Reply(delivery=called, reply_to=reply_to, body=b"late")])
        worker.bus.sender.send([DeadLetter(delivery=cast, reason="no good")])
        broker.lines.mend()
        assert broker.take_reply(reply_to) == b"late"
        assert broker.take_parked().body == b"1"
        # Both deliveries belong to the lost connection, so the broker redelivers them.
        assert bodies(worker.listener.receive(4)[2:]) == numbered(2)

    def test_a_connection_lost_during_a_publish_loses_no_notification_and_keeps_their_order(
        self, broker: Broker, worker: Worker
    ) -> None:
        wait_until(worker.bus.connected, "connected")
        sent = iter(outgoing(numbered(300)))
        for _ in range(3):
            worker.bus.sender.send(list(itertools.islice(sent, 100)))
            lose_connections(broker, worker)
        assert sorted(set(worker.listener.confirm(300))) == sorted(keys(numbered(300)))
        assert len(worker.listener.confirmed) == 300
        found = broker.take_all("notifications.info", b"299")
        first_times = list(dict.fromkeys(found))
        assert first_times == numbered(300)

    def test_a_bus_waits_for_a_broker_that_is_unavailable_at_the_start(
        self, broker: Broker, make_worker: MakeWorker
    ) -> None:
        broker.lines.cut()
        broker.publish(HOST_1, b"0")
        worker = make_worker()
        worker.bus.sender.send(outgoing([b"n"]))
        wait_until(lambda: broker.lines.attempts > 2, "attempts to connect")
        assert not worker.bus.connected()
        broker.lines.mend()
        assert bodies(worker.listener.receive(1)) == [b"0"]
        assert worker.listener.confirm(1) == keys([b"n"])

    def test_a_stop_without_a_broker_ends_within_its_timeout(self, broker: Broker, worker: Worker) -> None:
        wait_until(worker.bus.connected, "connected")
        broker.lines.cut()
        wait_until(lambda: not worker.bus.connected(), "disconnected")
        worker.bus.sender.send(outgoing([b"n"]))
        worker.bus.stop(0.1)
        assert worker.listener.confirmed == []


class TestQueuesThatAreGone(AMQPCase):
    @pytest.fixture(params=["classic"])
    def queue_type(self, request: pytest.FixtureRequest) -> str:
        """The tests of deleted queues need only one queue type."""
        return str(request.param)

    def test_a_client_that_declares_its_reply_queue_late_gets_its_reply(self, broker: Broker, worker: Worker) -> None:
        broker.publish(HOST_1, b"0")
        (delivery,) = worker.listener.receive(1)
        worker.bus.sender.send([Reply(delivery=delivery, reply_to=ReplyTo("reply_late", "m-1"), body=b"the reply")])
        # The notification is after the reply on the same channel: when it is confirmed, the broker has returned the reply once.
        worker.bus.sender.send(outgoing([b"n"]))
        worker.listener.confirm(1)
        assert broker.take_reply(broker.open_replies("reply_late")) == b"the reply"

    def test_the_notification_queue_is_declared_again(self, broker: Broker, worker: Worker) -> None:
        wait_until(worker.bus.connected, "connected")
        broker.channel.queue_delete("notifications.info")
        worker.bus.sender.send(outgoing([b"0"]))
        assert worker.listener.confirm(1) == keys([b"0"])
        assert broker.take_notification() == b"0"

    def test_the_dead_letter_queue_is_declared_again(self, broker: Broker, worker: Worker) -> None:
        broker.publish(HOST_1, b"0")
        delivery = worker.listener.receive(1)[0]
        broker.channel.queue_delete("tracker.dead")
        worker.bus.sender.send([DeadLetter(delivery=delivery, reason="no good")])
        wait_until(lambda: not unsettled(worker), "the parked message settled")
        assert broker.take_parked().body == b"0"

    def test_a_reply_to_a_missing_queue_is_settled_when_the_broker_returns_it(
        self, broker: Broker, worker: Worker
    ) -> None:
        broker.publish(HOST_1, b"0")
        worker.bus.sender.send([Reply(delivery=worker.listener.receive(1)[0], reply_to=NOBODY, body=b"the reply")])
        wait_until(lambda: not unsettled(worker), "the request settled")


class TestPrefetch(AMQPCase):
    @pytest.fixture
    def broker(self, broker_vhost: str, queue_type: str) -> Iterator[Broker]:
        broker = Broker(broker_vhost, bus__queue_type=queue_type, bus__prefetch=8)
        yield broker
        broker.close()

    def test_the_prefetch_is_divided_among_the_hosts(self, broker: Broker, make_worker: MakeWorker) -> None:
        worker = make_worker(HOSTS)
        for host, body in itertools.product(HOSTS, numbered(10)):
            broker.publish(host, body)
        first = {host: worker.listener.receive(4, source=host) for host in HOSTS}
        # A later delivery on the same connection shows that no other delivery came before it.
        broker.publish(SHARED, b"behind")
        worker.listener.receive(1, source=SHARED)
        assert len(worker.listener.deliveries) == 9
        worker.bus.receiver.settle(first[HOST_2])
        assert bodies(worker.listener.receive(8, source=HOST_2)) == numbered(8)
        broker.publish(FANOUT, b"behind")
        worker.listener.receive(1, source=FANOUT)
        assert bodies(worker.listener.receive(4, source=HOST_1)) == numbered(4)
        assert len(worker.listener.deliveries) == 14


class TestNotificationTopics(AMQPCase):
    @pytest.fixture
    def broker(self, broker_vhost: str) -> Iterator[Broker]:
        broker = Broker(broker_vhost, notifications__topics=["billing", "metering"])
        yield broker
        broker.close()

    @pytest.fixture
    def worker(self, make_worker: MakeWorker) -> Worker:
        return make_worker()

    def test_a_notification_goes_to_its_topic_and_is_confirmed_for_it(self, broker: Broker, worker: Worker) -> None:
        for topic in ("billing", "metering"):
            sent = [*outgoing(numbered(5), topic=topic), *outgoing([b"5"], topic=topic, priority="WARN")]
            worker.bus.sender.send(sent)
        assert sorted(worker.listener.confirm(12)) == sorted(keys(numbered(6)) * 2)
        for topic in ("billing", "metering"):
            assert [bytes(broker.take(f"{topic}.info").body) for _ in range(5)] == numbered(5)
            assert bytes(broker.take(f"{topic}.warn").body) == b"5"
        worker.stop()
        assert len(worker.listener.confirmed) == 12

    def test_a_topic_whose_queue_is_full_keeps_nothing_from_another_topic(self, broker: Broker, worker: Worker) -> None:
        wait_until(worker.bus.connected, "connected")
        full = {"x-max-length": 10, "x-overflow": "reject-publish"}
        broker.channel.queue_delete("metering.info")
        broker.channel.queue_declare("metering.info", durable=False, auto_delete=False, arguments=full)
        broker.channel.queue_bind("metering.info", "openstack", "metering.info")
        for first in range(0, 3000, 100):
            worker.bus.sender.send(outgoing(numbered(100, first=10_000 + first), topic="metering"))
            worker.bus.sender.send(outgoing(numbered(100, first=first), topic="billing"))
        confirmed = worker.listener.confirm(3010)
        assert [key for key in confirmed if len(key) < 6] == keys(numbered(3000))
        assert [bytes(broker.take("billing.info").body) for _ in range(3000)] == numbered(3000)
        broker.channel.queue_purge("metering.info")
        assert len(worker.listener.confirm(3020)) >= 3020

    def test_without_topics_the_bus_still_delivers_requests(self, broker: Broker, make_worker: MakeWorker) -> None:
        worker = make_worker(bus=AMQPBus(replace(broker.settings, notification_topics={})))
        broker.publish(HOST_1, b"0")
        assert bodies(worker.listener.receive(1)) == [b"0"]


def lose_connections(broker: Broker, worker: Worker) -> None:
    """Cut both connections and wait until the bus has connected again."""
    attempts = broker.lines.attempts
    broker.lines.cut()
    wait_until(lambda: not worker.bus.connected(), "disconnected")
    broker.lines.mend()
    wait_until(worker.bus.connected, lambda: f"connected, after {broker.lines.attempts - attempts} attempts")


def unsettled(worker: Worker) -> int:
    """The number of deliveries that are not settled."""
    consumer = worker.bus.receiver  # type: ignore[attr-defined]
    return len(consumer._unsettled)


def wait_until_acknowledged(broker: Broker, worker: Worker, others: list[object]) -> None:
    """Wait until the broker has processed the acknowledgements of all deliveries except ``others``.

    The bus receives a message that was published after the acknowledgements.
    """
    wait_until(lambda: unsettled(worker) == len(others), "acknowledgements")
    broker.publish(SHARED, b"behind")
    worker.listener.receive(1, source=SHARED)
