# SPDX-License-Identifier: Apache-2.0
"""The broker is killed, unreachable, silent or out of memory; queues are deleted. No accepted request is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.functional.test_start_stop import locked
from tests.servers import RabbitMQServer
from tests.servers.cluster import RabbitMQCluster
from tests.servers.proxy import Proxy
from tests.support import load, raw, stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.run import DURABLE, HOSTS, SHORT_HEARTBEAT, connections, scheduler_run
from tests.support.worker_process import WorkerProcess

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

# The timeout is shorter than the outages here: a client that waits for a lost reply soon repeats its request.
TIMEOUT = 5


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state' / 'tracker.sqlite'}"


@pytest.fixture
def proxy(rabbitmq: RabbitMQServer) -> Iterator[Proxy]:
    """A proxy between the worker alone and the broker."""
    with closing(Proxy(rabbitmq.port)) as proxy:
        proxy.open()
        yield proxy


@pytest.fixture
def start_worker(make_worker: MakeWorker, broker_vhost: str, rabbitmq: RabbitMQServer) -> Callable[..., WorkerProcess]:
    """Start a worker and wait until it is ready."""

    def start_worker(*, through: Proxy | None = None, **rabbit: object) -> WorkerProcess:
        url = broker_vhost if through is None else broker_vhost.replace(f":{rabbitmq.port}/", f":{through.port}/")
        worker = make_worker(transport_url=url, hosts=HOSTS, options={"oslo_messaging_rabbit": rabbit})
        worker.start()
        worker.wait_ready()
        return worker

    return start_worker


def _kill(rabbitmq: RabbitMQServer) -> None:
    rabbitmq.kill()
    rabbitmq.start()


def _stop(rabbitmq: RabbitMQServer) -> None:
    rabbitmq.stop_app()
    rabbitmq.start_app()


@pytest.mark.parametrize("fault", [_kill, _stop])
def test_a_broker_may_be_killed_or_stopped_under_load(
    start_worker: Callable[..., WorkerProcess],
    rabbitmq: RabbitMQServer,
    broker_vhost: str,
    database_url: str,
    fault: Callable[[RabbitMQServer], None],
) -> None:
    worker = start_worker(**DURABLE)
    with scheduler_run(broker_vhost, database_url, rabbit=DURABLE, timeout=TIMEOUT) as working:
        with working.at_work():
            fault(rabbitmq)
            working.wait_answers(50)

        working.prove(worker)


def test_a_connection_may_be_cut_under_load(
    start_worker: Callable[..., WorkerProcess], proxy: Proxy, broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(through=proxy)
    with scheduler_run(broker_vhost, database_url) as working:
        with working.at_work():
            for times in (2, 3, 4):
                proxy.cut()
                worker.wait_for_log("tracker-consumer: connected", times=times)
                working.wait_answers(20)

        working.prove(worker)


def test_a_broker_may_be_out_of_reach_for_a_while_under_load(
    start_worker: Callable[..., WorkerProcess], proxy: Proxy, broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(through=proxy)
    with scheduler_run(broker_vhost, database_url) as working:
        with working.at_work():
            proxy.cut(refuse=True)
            worker.wait_for_log("tracker-consumer: no connection", times=3)
            proxy.resume()
            working.wait_answers(50)

        working.prove(worker)


def test_a_half_open_connection_is_given_up_by_both_sides(
    start_worker: Callable[..., WorkerProcess], proxy: Proxy, broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(through=proxy, **SHORT_HEARTBEAT)
    with scheduler_run(broker_vhost, database_url) as working:
        with working.at_work():
            proxy.stall()
            worker.wait_for_log("heartbeats missed")
            worker.wait_for_log("tracker-consumer: connected", times=2)
            # The broker takes the queue away from the silent connection.
            working.wait_answers(50)

        working.prove(worker)


def test_a_slow_connection_is_not_closed(
    start_worker: Callable[..., WorkerProcess], proxy: Proxy, broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(through=proxy)
    with scheduler_run(broker_vhost, database_url) as working:
        with working.at_work():
            proxy.delay(0.05)
            working.wait_answers(100)
            proxy.resume()

        assert connections(worker) == 2
        working.prove(worker)


def test_a_publisher_may_lose_confirms(
    start_worker: Callable[..., WorkerProcess], proxy: Proxy, broker_vhost: str, database_url: str
) -> None:
    # The publisher cannot know whether the broker has the messages, so it publishes them again: notifications have the same id,
    # and the client drops the second reply.
    worker = start_worker(through=proxy)
    with scheduler_run(broker_vhost, database_url) as working:
        with working.at_work():
            for times, published in enumerate((b"tracker.claim.begun", b"limit_source"), 2):
                proxy.lose_answer_to(published)
                worker.wait_for_log("tracker-publisher: connected", times=times)
                working.wait_answers(20)

        working.prove(worker)


def test_a_memory_alarm_delays_publishing_and_nothing_else(
    start_worker: Callable[..., WorkerProcess], rabbitmq: RabbitMQServer, broker_vhost: str, database_url: str
) -> None:
    worker = start_worker(**SHORT_HEARTBEAT)
    with scheduler_run(broker_vhost, database_url) as working, ThreadPoolExecutor(20) as pool:
        instances = [instance_dict(number, node="n1", **sized(vcpus=1)) for number in range(20)]
        with raw.connect(broker_vhost) as raw_connection, locked(worker.database):
            calls = [pool.submit(working.client.call, HOST, "begin_resource_claim", instance=i) for i in instances]
            # The broker blocks a publisher when it publishes, so the worker must have received all calls before the alarm
            # begins.
            worker.wait_for_log("messages wait")
            wait_until(lambda: raw_connection.count(HOST_TOPIC) == 0, "all calls have arrived")
            rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1000000")
        try:
            worker.wait_for_log("ClaimBegun", times=20)
            wait_until(lambda: "blocked" in rabbitmq.ctl("list_connections", "state"), "the alarm blocks the publisher")
            # This takes longer than the broker's heartbeat timeout for a connection that it reads.
            for _ in range(3):
                rabbitmq.ctl("list_connections", "state")
            assert not any(call.done() for call in calls)
        finally:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        with working.at_work():
            working.wait_answers(50)

        assert worker.log().count("tracker-consumer: connected") == 1
        assert {call.result(30).reply["instance_uuid"] for call in calls} == {
            instance["uuid"] for instance in instances
        }
        working.prove(worker)


def test_a_request_whose_queue_is_deleted_after_its_delivery_is_processed(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, database_url: str
) -> None:
    worker = start_worker()
    with (
        scheduler_run(broker_vhost, database_url) as working,
        raw.connect(broker_vhost) as raw_connection,
        ThreadPoolExecutor(1) as pool,
    ):
        with locked(worker.database):
            call = pool.submit(working.client.call, HOST, "begin_resource_claim", instance=instance_dict(node="n1"))
            worker.wait_for_log("messages wait")
            raw_connection.channel.queue_delete(HOST_TOPIC)
            # A request that is sent before has no queue.
            worker.wait_for_log(f"the queue {HOST_TOPIC} is consumed now")
        assert call.result(30).reply["instance_uuid"] == instance_dict()["uuid"]
        with working.at_work():
            working.wait_answers(20)

        working.prove(worker)


def test_the_dead_letter_queue_may_be_deleted_under_load(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str, database_url: str
) -> None:
    worker = start_worker()
    with scheduler_run(broker_vhost, database_url) as working, raw.connect(broker_vhost) as raw_connection:
        parked = raw.packed(raw_connection.request("destroy", {}))
        with working.at_work():
            raw_connection.channel.queue_delete(raw.DEAD_LETTERS)
            raw_connection.publish(HOST_TOPIC, parked)
            worker.wait_for_log(f"no queue for {raw.DEAD_LETTERS}")
            working.wait_answers(20)
        raw.check_parked(raw_connection.take(raw.DEAD_LETTERS), parked, topic=HOST_TOPIC)


def test_notifications_stay_in_order_when_their_queue_is_deleted_during_the_load(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str
) -> None:
    worker = start_worker()
    with raw.connect(broker_vhost) as raw_connection, stock.client(broker_vhost, timeout=TIMEOUT) as client:
        client.call(HOST, "begin_resource_claim", instance=instance_dict(node="n1"))
        before = client.call(HOST, "get_node", node="n1")["sequence"]

        def rename(*numbers: int) -> None:
            for number in numbers:
                renamed = {"uuid": instance_dict()["uuid"], "node": "n1", "display_name": f"name-{number}"}
                client.cast(HOST, "update_usage", instance=renamed)

        rename(*range(100))
        raw_connection.channel.queue_delete("notifications.info")
        rename(*range(100, 400))
        worker.wait_for_log("no queue for notifications.info")
        last = before + 400
        sequences: list[int] = []
        while last not in sequences:
            said = raw.unpacked(wait_until(lambda: taken(raw_connection), f"more than {sequences[-3:]}").body)[
                "payload"
            ]
            if said["node"] == "n1" and said["sequence"] not in sequences:
                sequences.append(said["sequence"])
        assert sequences == sorted(sequences)
        # All notifications from the first unroutable one on are in the new queue; the earlier ones were lost with the deleted
        # queue.
        assert sequences == list(range(sequences[0], last + 1))


def taken(raw_connection: raw.RawConnection) -> Any:
    """The next notification, or None, also while the queue does not exist."""
    try:
        return raw_connection.channel.basic_get("notifications.info", no_ack=True)
    except raw.NotFound:
        raw_connection.channel = raw_connection.channel.connection.channel()
        raw_connection.channel.auto_decode = False
        return None


def test_missing_reply_queues_delay_no_other_call(
    start_worker: Callable[..., WorkerProcess], broker_vhost: str
) -> None:
    worker = start_worker()
    dead = 300  # more than the prefetch
    with raw.connect(broker_vhost) as raw_connection, stock.client(broker_vhost, timeout=TIMEOUT) as client:
        for number in range(dead):
            request = raw_connection.request(
                "begin_resource_claim",
                {"instance": instance_dict(number, node="n1", **sized(vcpus=1))},
                call=True,
                keys={"_reply_q": f"reply_of_a_client_that_died_{number}"},
            )
            raw_connection.publish(HOST_TOPIC, raw.packed(request))
        # This call is after all requests in the same queue.
        assert client.call(HOST, "get_node", node="n1")["running_vms"] == dead
        worker.wait_for_log("no queue for reply_of_a_client_that_died_299")
        assert client.call(HOST, "get_node", node="n1")["running_vms"] == dead
        assert worker.terminate(8) == 0
        assert raw_connection.count(HOST_TOPIC) == 0


@pytest.mark.long
def test_a_cluster_may_lose_the_node_that_the_worker_is_connected_to(tmp_path: Path) -> None:
    rabbit = {"rabbit_quorum_queue": True}
    cluster = RabbitMQCluster()
    with closing(cluster):
        cluster.open()
        worker = WorkerProcess(
            tmp_path, transport_url=cluster.url, hosts=load.HOSTS, options={"oslo_messaging_rabbit": rabbit}
        )
        with (
            closing(worker),
            stock.client(cluster.url, timeout=10, **rabbit) as client,
            stock.listener(cluster.url, **rabbit) as listener,
        ):
            worker.start()
            worker.wait_ready()
            flight = load.Load(client)
            flight.prepare()

            # The order of the addresses differs between processes.
            used = next(n for n, port in enumerate(cluster.ports) if f"connected to 127.0.0.1:{port}" in worker.log())
            with flight.running():
                flight.wait_answered(50)
                assert flight.answered < load.CALLS
                cluster.kill_node(used)

            flight.check(listener)
            others = [port for n, port in enumerate(cluster.ports) if n != used]
            assert any(f"connected to 127.0.0.1:{port}" in worker.log() for port in others)
            assert worker.terminate() == 0
