# SPDX-License-Identifier: Apache-2.0
"""Exchanges, bindings and queues that vanish while the worker's connections live are made again, without a restart."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import amqp
import pytest

from tests.conformance.bus_amqp import Broker
from tests.functional.conftest import HOST, HOST_TOPIC
from tests.functional.conftest import MakeWorker as MakeProcess
from tests.support import raw, stock
from tests.support.bus import HOST_1, HOST_2, HOSTS, BusCase, MakeWorker, Worker, bodies, keys, numbered, outgoing
from tests.support.deadline import SECONDS, wait_until
from tests.support.messaging import oslo_messaging
from tests.support.worker_process import NODE
from tracker_worker.bus.amqp import served, topology
from tracker_worker.bus.amqp.topology import Queue
from tracker_worker.bus.base import FANOUT, SHARED

EXCHANGE = "openstack"
BOTH_CONNECTIONS = 2
Damage = Callable[[amqp.Channel], None]


@pytest.fixture(params=["quorum", "classic"])
def queue_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def broker(broker_vhost: str, queue_type: str) -> Iterator[Broker]:
    broker = Broker(broker_vhost, bus__queue_type=queue_type)
    yield broker
    broker.close()


@pytest.fixture
def make_process(make_worker: MakeProcess) -> MakeProcess:
    """``make_worker`` of the functional tests, whose name means a bus in the classes below."""
    return make_worker


class RepairCase(BusCase):
    @pytest.fixture
    def outside(self, broker: Broker) -> Broker:
        return broker

    @pytest.fixture
    def worker(self, make_worker: MakeWorker) -> Worker:
        worker = make_worker(HOSTS)
        wait_until(worker.bus.connected, "connected")
        return worker


def damage(broker: Broker, action: Damage) -> None:
    with broker.other_channel() as channel:
        action(channel)


def wait_until_reached(broker: Broker, worker: Worker, exchange: str, key: str, source: str) -> None:
    """Publish one request after the other until the worker, which probes meanwhile, receives one of them from ``source``."""
    sent = (f"{source} {number}".encode() for number in itertools.count())

    def reached() -> bool:
        worker.bus.probe(HOSTS)
        with broker.other_channel() as channel:
            try:
                channel.basic_publish(amqp.Message(next(sent)), exchange, key)
                channel.queue_declare("tracker", passive=True)  # the error of a missing exchange comes by now
            except amqp.NotFound:
                return False
        return any(d.source == source and d.body.startswith(source.encode() + b" ") for d in worker.listener.deliveries)

    wait_until(reached, f"a request with the key {key!r}", seconds=20)


class TestBindingsAndExchanges(RepairCase):
    @pytest.fixture(params=["classic"])
    def queue_type(self, request: pytest.FixtureRequest) -> str:
        """Bindings know no types of queues."""
        return str(request.param)

    @pytest.mark.parametrize(
        ("queue", "source"), [(f"tracker.{HOST_1}", HOST_1), ("tracker", SHARED)], ids=["a host's", "the shared"]
    )
    def test_a_queue_without_its_binding_is_named_and_bound_again(
        self, broker: Broker, worker: Worker, queue: str, source: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        damage(broker, lambda channel: channel.queue_unbind(queue, EXCHANGE, queue))

        wait_until_reached(broker, worker, EXCHANGE, queue, source)

        (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert f"exchange {EXCHANGE} with the key {queue} does not reach the queue {queue}:" in warning
        assert broker.lines.attempts == BOTH_CONNECTIONS
        assert worker.listener.lost_after == []

    @pytest.mark.parametrize("again", [False, True], ids=["for good", "and made again by a client"])
    def test_the_exchange_that_was_deleted_is_declared_and_everything_is_bound_again(
        self, broker: Broker, worker: Worker, again: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        damage(broker, lambda channel: channel.exchange_delete(EXCHANGE))
        if again:
            damage(broker, lambda channel: channel.exchange_declare(EXCHANGE, "topic", auto_delete=False))

        for source in (HOST_1, HOST_2):
            wait_until_reached(broker, worker, EXCHANGE, f"tracker.{source}", source)
        wait_until_reached(broker, worker, EXCHANGE, "tracker", SHARED)

        assert f"exchange {EXCHANGE}" in caplog.text
        assert worker.listener.lost_after == []  # the consuming connection lives
        worker.bus.sender.send(outgoing([b"n"]))
        assert worker.listener.confirm(1) == keys([b"n"])
        assert broker.take_notification() == b"n"

    @pytest.mark.parametrize("again", [False, True], ids=["for good", "and made again by a client"])
    def test_a_fanout_exchange_that_was_deleted_is_declared_and_bound_again(
        self, broker: Broker, worker: Worker, again: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(served, "_CHECK_SECONDS", 0.5)
        damage(broker, lambda channel: channel.exchange_delete("tracker_fanout"))
        if again:
            damage(broker, lambda channel: channel.exchange_declare("tracker_fanout", "fanout", auto_delete=True))

        wait_until_reached(broker, worker, "tracker_fanout", "", FANOUT)

        assert broker.lines.attempts == BOTH_CONNECTIONS

    def test_a_repair_on_demand_binds_what_nobody_has_missed_yet(self, broker: Broker, worker: Worker) -> None:
        damage(broker, lambda channel: channel.queue_unbind(f"tracker.{HOST_1}", EXCHANGE, f"tracker.{HOST_1}"))
        damage(broker, lambda channel: channel.queue_delete("notifications.info"))
        worker.bus.repair()

        def repaired() -> bool:
            broker.publish(HOST_1, b"0")
            return bool(worker.listener.deliveries)

        wait_until(repaired, "a request")
        damage(broker, lambda channel: channel.basic_publish(amqp.Message(b"n"), EXCHANGE, "notifications.info"))
        assert broker.take_notification() == b"n"


class TestWorker:
    """The whole worker, as its operator and a stock client see it."""

    @pytest.mark.parametrize(
        "damaged",
        {
            "the host's binding": lambda channel: channel.queue_unbind(HOST_TOPIC, EXCHANGE, HOST_TOPIC),
            "the exchange": lambda channel: channel.exchange_delete(EXCHANGE),
            "the host's queue": lambda channel: channel.queue_delete(HOST_TOPIC),
        }.items(),
        ids=lambda named: named[0],
    )
    def test_calls_are_answered_again_without_a_restart(
        self, make_process: MakeProcess, broker_vhost: str, damaged: tuple[str, Damage]
    ) -> None:
        worker = make_process(hosts={HOST: {"n1": NODE}})
        worker.start()
        worker.wait_ready()
        with stock.client(broker_vhost, timeout=3) as client, raw.connect(broker_vhost) as raw_connection:
            assert client.call(HOST, "oslo_rpc_server_ping") == "pong"
            damaged[1](raw_connection.channel)

            def answered() -> bool:
                try:
                    return bool(client.call(HOST, "oslo_rpc_server_ping") == "pong")
                except oslo_messaging.MessagingException:
                    return False

            wait_until(answered, "a call answered", seconds=20)
        assert worker.log().count("tracker-consumer: connected") == 1
        assert f"key {HOST_TOPIC}" in worker.log()


class TestQueues(RepairCase):
    def test_a_queue_that_was_deleted_is_declared_and_consumed_again_over_the_same_connection(
        self, broker: Broker, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        for body in numbered(5):
            broker.publish(HOST_1, body)
            broker.publish(HOST_2, body)
        gone = worker.listener.receive(5, source=HOST_1)
        kept = worker.listener.receive(5, source=HOST_2)
        for name in (f"tracker.{HOST_1}", "tracker"):
            damage(broker, lambda channel, name=name: channel.queue_delete(name))  # type: ignore[misc]

        wait_until_reached(broker, worker, EXCHANGE, f"tracker.{HOST_1}", HOST_1)
        wait_until_reached(broker, worker, EXCHANGE, "tracker", SHARED)

        assert f"the queue tracker.{HOST_1} (exchange {EXCHANGE}, key tracker.{HOST_1}) was deleted" in caplog.text
        assert {*gone, *kept} <= {*worker.listener.deliveries}
        # The deliveries of the deleted queue are among these, and unknown to the broker by now.
        worker.bus.receiver.settle(worker.listener.deliveries)
        broker.publish(HOST_2, b"behind")
        wait_until(lambda: b"behind" in bodies(worker.listener.deliveries), "a request after the acknowledgements")
        assert broker.lines.attempts == BOTH_CONNECTIONS
        worker.stop()
        wait_until(lambda: broker.count(f"tracker.{HOST_2}") == 1, "the request that was not settled")

    def test_a_queue_that_is_deleted_behind_the_look_for_deleted_ones_is_consumed_again(
        self, broker: Broker, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """RabbitMQ would not cancel the consumer of a queue that is declared again at once."""
        look, deleted = topology.missing, threading.Event()

        def look_and_delete(connection: Any, queues: Sequence[Queue]) -> list[Queue]:
            found = look(connection, queues)
            if not deleted.is_set():
                damage(broker, lambda channel: channel.queue_delete(f"tracker.{HOST_1}"))
                deleted.set()
            return found

        monkeypatch.setattr(topology, "missing", look_and_delete)
        worker.bus.receiver.repair()
        assert deleted.wait(SECONDS)

        wait_until_reached(broker, worker, EXCHANGE, f"tracker.{HOST_1}", HOST_1)

        assert broker.lines.attempts == BOTH_CONNECTIONS


class TestPrefetch(RepairCase):
    @pytest.fixture
    def broker(self, broker_vhost: str, queue_type: str) -> Iterator[Broker]:
        broker = Broker(broker_vhost, bus__queue_type=queue_type, bus__prefetch=8)
        yield broker
        broker.close()

    def test_a_queue_that_is_consumed_again_has_its_share_of_the_prefetch(
        self, broker: Broker, make_worker: MakeWorker
    ) -> None:
        worker = make_worker()
        wait_until(worker.bus.connected, "connected")
        damage(broker, lambda channel: channel.queue_delete(f"tracker.{HOST_1}"))
        wait_until(lambda: broker.consumers(f"tracker.{HOST_1}") == 1, "a consumer")
        for body in numbered(20):
            broker.publish(HOST_1, body)
        worker.listener.receive(8, source=HOST_1)
        broker.publish(SHARED, b"behind")
        worker.listener.receive(1, source=SHARED)
        assert len(worker.listener.deliveries) == 9


class TestRefusedQueues(RepairCase):
    def test_a_queue_with_other_arguments_keeps_nobody_from_the_other_queues(
        self,
        broker: Broker,
        make_worker: MakeWorker,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(served, "_CHECK_SECONDS", 0.1)
        monkeypatch.setattr(served, "_PAUSE_SECONDS", 0.1)
        wrong = f"tracker.{HOST_2}"
        damage(broker, lambda channel: channel.queue_delete(wrong))
        damage(broker, lambda channel: channel.queue_declare(wrong, durable=False, auto_delete=False))
        worker = make_worker(HOSTS)
        broker.publish(HOST_1, b"0")
        worker.listener.receive(1, source=HOST_1)
        assert not worker.bus.connected()

        connection = worker.bus.receiver._served._connection  # type: ignore[attr-defined]
        channels = len(connection.channels)
        for number in range(1, 11):
            worker.bus.repair()
            broker.publish(HOST_1, b"%d" % number)
            worker.listener.receive(1 + number, source=HOST_1)
        wait_until(lambda: len(connection.channels) <= channels, "no channel left open by a refusal")
        assert caplog.text.count(f"delete_queue {wrong}") == 1
        assert broker.lines.attempts == BOTH_CONNECTIONS

        damage(broker, lambda channel: channel.queue_delete(wrong))
        wait_until(worker.bus.connected, "the other queue consumed as well")
        broker.publish(HOST_2, b"0")
        assert bodies(worker.listener.receive(1, source=HOST_2)) == [b"0"]
