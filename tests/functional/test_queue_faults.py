# SPDX-License-Identifier: Apache-2.0
"""Queues that lose their messages, that are full, or that another program has declared, and the effect on their messages."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.functional.test_cli import Operator
from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.messaging import oslo_messaging
from tests.support.run import HOSTS, scheduler_run
from tests.support.worker_process import WorkerProcess

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

INFO = "notifications.info"


@pytest.fixture
def start_worker(make_worker: MakeWorker) -> Callable[[], WorkerProcess]:
    """Start a worker with default options and wait until it is ready."""

    def start_worker() -> WorkerProcess:
        worker = make_worker(hosts=HOSTS)
        worker.start()
        worker.wait_ready()
        return worker

    return start_worker


def claim(client: stock.Client, number: int) -> None:
    client.call(HOST, "begin_resource_claim", instance=instance_dict(number, node="n1", **sized(vcpus=1)))


def waiting(operator: Operator, node: str) -> int:
    """The number of a node's notifications that the broker has not confirmed."""
    (row,) = [row for row in operator.json("outbox", "status") if row["node"] == node]
    return int(row["rows"])


def test_notifications_lost_with_a_queue_that_is_not_durable_can_be_replayed(
    start_worker: Callable[[], WorkerProcess], rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    worker = start_worker()
    operator = Operator(worker)
    with stock.client(broker_vhost) as client:
        claim(client, 1)
        claim(client, 2)
    wait_until(lambda: waiting(operator, "n1") == 0, "everything is published")
    rabbitmq.restart()
    worker.wait_for_log("tracker-publisher: connected", times=2)
    worker.wait_for_log("tracker-consumer: connected", times=2)

    with stock.client(broker_vhost) as client, stock.listener(broker_vhost) as listener:
        claim(client, 3)
        wait_until(lambda: listener.heard(HOST, "n1"), "the next notification is heard")
        assert [one.sequence for one in listener.heard(HOST, "n1")] == [4], "before it is a gap"

        replayed = operator.json(
            *("outbox", "replay", "--host", HOST, "--node", "n1", "--from-sequence", "1", "--to-sequence", "3")
        )

        assert (replayed["sent"], replayed["missing"]) == (3, [])
        heard = listener.wait_for(HOST, "n1", 4)
        assert [one.sequence for one in heard] == [4, 1, 2, 3]
        begun = [one.payload["instance_id"] for one in sorted(heard, key=lambda one: one.sequence)[1:]]
        assert begun == [instance_dict(number)["uuid"] for number in (1, 2, 3)]


def test_notifications_refused_by_a_full_queue_wait_in_the_outbox(
    start_worker: Callable[[], WorkerProcess], rabbitmq: RabbitMQServer, client: stock.Client, broker_vhost: str
) -> None:
    policy = ("-p", broker_vhost.rpartition("/")[2], "full")
    limit = json.dumps({"max-length": 6, "overflow": "reject-publish"})
    rabbitmq.ctl("set_policy", *policy, f"^{INFO}$", limit, "--apply-to", "queues")
    worker = start_worker()
    operator = Operator(worker)
    for number in range(1, 11):
        claim(client, number)
    worker.wait_for_log(f"{INFO} refuses messages: it is full")
    with raw.connect(broker_vhost) as raw_connection:
        # The inventories of four nodes, and two claims.
        wait_until(lambda: raw_connection.count(INFO) == 6, "the queue is full")
    wait_until(lambda: waiting(operator, "n1") == 8, "the other claims wait")
    assert client.call(HOST, "get_node", node="n1")["running_vms"] == 10

    rabbitmq.ctl("clear_policy", *policy)

    with stock.listener(broker_vhost) as listener:
        heard = listener.wait_for(HOST, "n1", 11)
        wait_until(lambda: waiting(operator, "n1") == 0, "the outbox is done with")
    # The worker sends no confirmed notification again.
    assert sorted(one.sequence for one in heard) == list(range(1, 12))
    assert len({one.message_id for one in heard}) == 11
    assert worker.terminate() == 0
    assert "Traceback" not in worker.log()


def test_the_log_names_a_host_queue_with_wrong_properties_and_the_command_that_deletes_it(
    start_worker: Callable[[], WorkerProcess], broker_vhost: str
) -> None:
    worker = start_worker()
    with (
        scheduler_run(broker_vhost, f"sqlite:///{worker.database}") as working,
        raw.connect(broker_vhost) as raw_connection,
        stock.client(broker_vhost, timeout=1) as hasty,
    ):
        with working.at_work():
            working.wait_answers(20)
        working.settle()  # deleting a queue loses its messages
        # A stock server declares the queue before the worker hears of the deletion.
        worker.signal(signal.SIGSTOP)
        raw_connection.channel.queue_delete(HOST_TOPIC)
        raw_connection.channel.queue_declare(HOST_TOPIC, durable=False, auto_delete=False)
        raw_connection.channel.queue_bind(HOST_TOPIC, raw.EXCHANGE, HOST_TOPIC)
        worker.signal(signal.SIGCONT)
        worker.wait_for_log(f"rabbitmqctl delete_queue {HOST_TOPIC}")
        with pytest.raises(oslo_messaging.MessagingTimeout):
            hasty.call(HOST, "get_node", node=next(iter(HOSTS[HOST])))
        # The worker's other hosts are served all the same.
        for host in HOSTS.keys() - {HOST}:
            hasty.call(host, "get_node", node=next(iter(HOSTS[host])))

        raw_connection.channel.queue_delete(HOST_TOPIC)
        wait_until(lambda: served(broker_vhost), "the host is served again")
        with working.at_work():
            working.wait_answers(50)

        working.prove(worker)


def served(url: str) -> bool:
    """Whether the host's queue has a consumer."""
    with raw.connect(url) as raw_connection:
        try:
            return bool(raw_connection.channel.queue_declare(HOST_TOPIC, passive=True).consumer_count)
        except raw.NotFound:
            return False
