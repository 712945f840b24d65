# SPDX-License-Identifier: Apache-2.0
"""A broker that refuses queues which are neither durable nor exclusive, as RabbitMQ 4.3 does unless its configuration permits
them: a front in front of the real broker plays it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from amqp.exceptions import InternalError

from tests.functional.conftest import HOST, MakeWorker
from tests.functional.test_cli import Operator
from tests.servers import RabbitMQServer
from tests.servers.front import Front
from tests.support import raw, stock
from tests.support.builders import instance_dict, sized
from tests.support.worker_process import NODE, WorkerProcess

N1 = "n1"
QUEUES = ["notifications.info", "notifications.warn"]
# What the worker's warning and doc/admin/install.md say.
NEEDED = {"amqp_durable_queues": True, "rabbit_transient_quorum_queue": True}


@pytest.fixture(params=[541, 403, 406])
def front(request: pytest.FixtureRequest, rabbitmq: RabbitMQServer, broker_vhost: str) -> Iterator[Front]:
    opened = Front(rabbitmq.port, request.param)
    opened.open()
    yield opened
    opened.close()


def behind(front: Front, url: str, rabbitmq: RabbitMQServer) -> str:
    """The URL of the virtual host behind the front."""
    assert f":{rabbitmq.port}/" in url
    return url.replace(f":{rabbitmq.port}/", f":{front.port}/")


def is_durable(url: str, queue: str) -> bool:
    """Whether the queue exists and is durable."""
    with raw.connect(url) as connection:
        connection.channel.queue_declare(queue, passive=True)
        connection.channel.queue_declare(queue, durable=True, auto_delete=False)  # raises if it has other arguments
    return True


def warnings_of(worker: WorkerProcess) -> list[str]:
    return [line for line in worker.log().splitlines() if " WARNING " in line or " ERROR " in line]


def test_the_worker_declares_durable_queues_and_says_once_what_its_clients_need(
    front: Front, broker_vhost: str, rabbitmq: RabbitMQServer, make_worker: MakeWorker
) -> None:
    url = behind(front, broker_vhost, rabbitmq)
    worker = make_worker(hosts={HOST: {N1: NODE}}, transport_url=url)
    worker.start()
    worker.wait_ready()

    with stock.listener(url, **NEEDED) as listener, stock.client(url, **NEEDED) as client:
        claim = client.call(HOST, "begin_resource_claim", instance=instance_dict(1, **sized(memory_mb=1)))
        client.call(HOST, "finish_resource_claim", claim_id=claim["claim_id"])
        assert [one.event_type for one in listener.wait_for(HOST, N1, 3)] == [
            "tracker.node.updated",
            "tracker.claim.begun",
            "tracker.claim.finished",
        ]
        worker.reload()  # declares again
        client.call(HOST, "update_available_resource")
        with raw.connect(broker_vhost) as broker:
            broker.channel.queue_delete(QUEUES[1])
        client.call(HOST, "begin_resource_claim", instance=instance_dict(2, **sized(memory_mb=1)))
        listener.wait_for(HOST, N1, 4)
    (warning,) = warnings_of(worker)
    assert " WARNING " in warning
    assert "consumers with oslo.messaging need amqp_durable_queues = true in [oslo_messaging_rabbit]" in warning
    assert "rabbit_transient_quorum_queue = true" in warning
    assert "transient" in warning.rpartition("the broker says: ")[2]
    # One attempt of each connection at most, and no loop.
    assert front.refused in (QUEUES[:1], QUEUES[:1] * 2)
    assert is_durable(broker_vhost, QUEUES[0])
    assert worker.terminate() == 0


def test_a_worker_with_durable_options_is_refused_nothing(
    front: Front, broker_vhost: str, rabbitmq: RabbitMQServer, make_worker: MakeWorker
) -> None:
    url = behind(front, broker_vhost, rabbitmq)
    worker = make_worker(
        hosts={HOST: {N1: NODE}}, transport_url=url, options={"oslo_messaging_rabbit": {"amqp_durable_queues": True}}
    )
    worker.start()
    worker.wait_ready()
    with stock.listener(url, **NEEDED) as listener, stock.client(url, **NEEDED) as client:
        client.call(HOST, "begin_resource_claim", instance=instance_dict(1, **sized(memory_mb=1)))
        listener.wait_for(HOST, N1, 2)
    assert front.refused == []
    assert warnings_of(worker) == []


@pytest.mark.parametrize("front", [541], indirect=True)
def test_a_broker_that_begins_to_refuse_costs_a_running_worker_no_notification(
    front: Front, broker_vhost: str, rabbitmq: RabbitMQServer, make_worker: MakeWorker
) -> None:
    """As after an upgrade of the broker, behind which what was not durable is gone."""
    worker = make_worker(hosts={HOST: {N1: NODE}})
    worker.start()
    worker.wait_ready()
    operator = Operator(worker)
    assert worker.terminate() == 0
    with raw.connect(broker_vhost) as broker:
        for queue in QUEUES:
            broker.channel.queue_delete(queue)
        broker.channel.exchange_delete(raw.EXCHANGE)
    worker.configure({"DEFAULT": {"transport_url": behind(front, broker_vhost, rabbitmq)}})
    worker.start()
    worker.wait_ready()
    with stock.client(broker_vhost, **NEEDED) as client:
        for number in range(1, 21):
            client.call(HOST, "begin_resource_claim", instance=instance_dict(number, **sized(memory_mb=1)))
        # The command has to find it out by itself.
        with raw.connect(broker_vhost) as broker:
            for queue in QUEUES:
                broker.channel.queue_delete(queue)
        done = operator.run("outbox", "replay", "--host", HOST, "--node", N1, "--from-sequence", "1")
        assert (done.returncode, done.stderr) == (0, "")  # the worker's log says it
    with stock.listener(broker_vhost, amqp_durable_queues=True) as listener:
        listener.wait_for(HOST, N1, 21)


@pytest.mark.parametrize("front", [541], indirect=True)
def test_the_front_refuses_as_a_broker_does(front: Front, broker_vhost: str, rabbitmq: RabbitMQServer) -> None:
    with raw.connect(behind(front, broker_vhost, rabbitmq)) as connection:
        connection.channel.queue_declare("durable", durable=True, auto_delete=False)
        connection.channel.queue_declare("exclusive", exclusive=True)
        connection.channel.queue_declare("exclusive", passive=True)
        with pytest.raises(InternalError, match="transient_nonexcl_queues"):
            connection.channel.queue_declare("neither")
    assert front.refused == ["neither"]
