# SPDX-License-Identifier: Apache-2.0
"""Connections, queues and brokers disappear and return without the loss of an accepted request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.servers import RabbitMQServer
from tests.servers.proxy import Proxy
from tests.support import load, raw, stock
from tests.support.builders import instance_dict
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

HOSTS = {HOST: {"n1": NODE}}
# With this option in all programs, queues and messages survive a restart of the broker.
DURABLE = {"amqp_durable_queues": True}


def vhost_of(url: str) -> str:
    return url.rpartition("/")[2]


def close_all_connections(rabbitmq: RabbitMQServer, url: str) -> None:
    rabbitmq.ctl("close_all_connections", "--vhost", vhost_of(url), "a test")


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
@pytest.mark.parametrize(
    "disturb",
    [close_all_connections, lambda rabbitmq, _: rabbitmq.restart()],
    ids=["connections closed", "broker restarted"],
)
def test_nothing_is_lost_done_twice_or_out_of_order_when_the_connections_are_lost(
    make_worker: MakeWorker,
    rabbitmq: RabbitMQServer,
    broker_vhost: str,
    disturb: Callable[[RabbitMQServer, str], None],
    queue_type: str,
) -> None:
    options = {**load.options(queue_type), "oslo_messaging_rabbit": DURABLE}
    worker = make_worker(hosts=load.HOSTS, options=options)
    worker.start()
    worker.wait_ready()
    # A reply queue does not survive the broker: the client repeats a call whose reply is lost, after the timeout.
    with (
        stock.client(broker_vhost, timeout=10, **DURABLE) as client,
        stock.listener(broker_vhost, **DURABLE) as listener,
    ):
        flight = load.Load(client)
        flight.prepare()

        with flight.running():
            flight.wait_answered(50)
            disturb(rabbitmq, broker_vhost)
            assert worker.is_alive()

        flight.check(listener)
        assert worker.terminate(8) == 0
        assert "Traceback" not in worker.log()


def test_a_queue_that_is_deleted_is_declared_and_consumed_again(
    make_worker: MakeWorker, client: stock.Client, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    with raw.connect(broker_vhost) as raw_connection:
        for queue in (HOST_TOPIC, "tracker"):
            raw_connection.channel.queue_delete(queue)
            worker.wait_for_log(f"the queue {queue} (exchange openstack, key {queue}) was deleted")
            # A message that is sent before has no queue.
            wait_until(lambda queue=queue: _consumers(broker_vhost, queue), "the queue is consumed again")  # type: ignore[misc]
            for host in (HOST, None):
                assert client.call(host, "oslo_rpc_server_ping") == "pong"
        assert worker.log().count("tracker-consumer: connected") == 1
        raw_connection.channel.queue_delete(raw.DEAD_LETTERS)
        # The dead-letter queue has no consumer: the worker notices its absence only when it parks a message.
        body = raw.packed(raw_connection.request("destroy", {}))
        raw_connection.publish(HOST_TOPIC, body)
        wait_until(lambda: "no queue for tracker.dead" in worker.log(), "the dead letter has no queue")
        wait_until(lambda: client.call(HOST, "oslo_rpc_server_ping"), "the worker goes on")
        parked = raw_connection.take(raw.DEAD_LETTERS)
        raw.check_parked(parked, body, topic=HOST_TOPIC)


def test_a_notification_queue_that_is_deleted_is_declared_again(
    make_worker: MakeWorker, client: stock.Client, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    with raw.connect(broker_vhost) as raw_connection:
        raw_connection.take("notifications.info")
        raw_connection.channel.queue_delete("notifications.info")

        client.call(HOST, "begin_resource_claim", instance=instance_dict())

        worker.wait_for_log("no queue for notifications.info")
        wait_until(lambda: _consumers(broker_vhost, "notifications.info") is not None, "the queue is declared again")
        heard = raw.unpacked(raw_connection.take("notifications.info").body)
    assert (heard["event_type"], heard["payload"]["sequence"]) == ("tracker.claim.begun", 2)


def _consumers(url: str, queue: str) -> int | None:
    """The number of a queue's consumers. None: the queue does not exist."""
    with raw.connect(url) as raw_connection:
        try:
            return int(raw_connection.channel.queue_declare(queue, passive=True).consumer_count)
        except raw.NotFound:
            return None


def test_a_stock_listener_accepts_a_notification_that_is_published_again(
    make_worker: MakeWorker, client: stock.Client, listener: stock.Listener, rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    # A listener never acknowledges a message whose _unique_id is among its last sixteen.
    with closing(Proxy(rabbitmq.port)) as proxy:
        proxy.open()
        worker = make_worker(hosts=HOSTS, transport_url=broker_vhost.replace(f":{rabbitmq.port}/", f":{proxy.port}/"))
        worker.start()
        worker.wait_ready()
        listener.wait_for(HOST, "n1", 1)
        proxy.lose_answer_to(b"tracker.claim.begun")

        client.call(HOST, "begin_resource_claim", instance=instance_dict())

        wait_until(lambda: len(listener.heard(HOST)) == 3, "it is heard again, since its confirm was lost")
        begun = listener.heard(HOST)[1:]
        assert len({one.message_id for one in begun}) == 1
        assert worker.terminate() == 0


def test_every_notification_topic_gets_each_notification(make_worker: MakeWorker, broker_vhost: str) -> None:
    worker = make_worker(hosts=HOSTS, options={"notifications": {"topics": "billing, notifications"}})
    worker.start()
    worker.wait_ready()

    with stock.listener(broker_vhost, topics=("billing", "notifications")) as listener:
        wait_until(lambda: len(listener.heard(HOST)) == 2, "both are heard")
    assert len({one.message_id for one in listener.heard(HOST)}) == 1


def test_a_fanout_works_again_after_the_connections_were_closed(
    make_worker: MakeWorker, client: stock.Client, rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    client.call(HOST, "begin_resource_claim", instance=instance_dict(), timeout=0.001)
    close_all_connections(rabbitmq, broker_vhost)
    worker.wait_for_log("tracker-consumer: connected", times=2)

    # The broker deleted the fanout exchange with its last queue; a client declares it again, and without a queue the cast is
    # lost.
    wait_until(lambda: _expired(client), "a fanout reaches the worker")


def _expired(client: stock.Client) -> bool:
    client.fanout("update_available_resource")
    return client.call(HOST, "list_claims") == []


def test_a_worker_connects_to_the_next_broker_of_the_url_if_the_first_is_unavailable(
    make_worker: MakeWorker, client: stock.Client, rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    account, _, place = broker_vhost.removeprefix("rabbit://").rpartition("@")
    dead = ",".join(f"{account}@127.0.0.1:{port}" for port in range(1, 10))
    worker = make_worker(hosts=HOSTS, transport_url=f"rabbit://{dead},{account}@{place}")
    worker.start()
    worker.wait_ready()
    # A worker waits only after a whole round, and no round was without a connection.
    assert "again in" not in worker.log()

    assert client.call(HOST, "begin_resource_claim", instance=instance_dict())["state"] == "begun"
    close_all_connections(rabbitmq, broker_vhost)
    worker.wait_for_log(f"tracker-consumer: connected to 127.0.0.1:{rabbitmq.port}", times=2)
    assert client.call(HOST, "get_node")["running_vms"] == 1


def test_a_queue_of_another_type_is_reported_with_the_command_that_deletes_it(
    make_worker: MakeWorker, client: stock.Client, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS)
    with raw.connect(broker_vhost) as raw_connection:
        # A stock server leaves such a queue on the broker.
        raw_connection.channel.queue_declare(HOST_TOPIC, durable=False, auto_delete=False)
        worker.start()
        worker.wait_for_log(f"rabbitmqctl delete_queue {HOST_TOPIC}")
        assert "ready" not in worker.log()

        raw_connection.channel.queue_delete(HOST_TOPIC)
        worker.wait_ready()

    assert client.call(HOST, "oslo_rpc_server_ping") == "pong"


def test_a_worker_stops_without_a_broker_and_its_successor_publishes_the_rest(
    make_worker: MakeWorker, rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS, options={"oslo_messaging_rabbit": DURABLE})
    worker.start()
    worker.wait_ready()
    rabbitmq.stop_app()
    worker.wait_for_log("tracker-consumer: no connection")
    # This creates a notification while no broker is available.
    worker.write_inventory({HOST: {"n1": {**NODE, "vcpus": 3}}})
    worker.reload()
    worker.wait_for_log("NodeUpdated", times=2)

    assert worker.terminate(8) == 0

    rabbitmq.start_app()
    worker.start()
    with stock.listener(broker_vhost, **DURABLE) as listener:
        heard = load.once_in_order(listener.wait_for(HOST, "n1", 2))
    assert [one.payload["vcpus"] for one in heard] == [NODE["vcpus"], 3]
