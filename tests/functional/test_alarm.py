# SPDX-License-Identifier: Apache-2.0
"""The broker's memory or disk alarm: the worker says it, waits for its end, and publishes everything once."""

from __future__ import annotations

import signal

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.run import SHORT_HEARTBEAT
from tests.support.worker_process import NODE

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

CASTS = 400
WATERMARK = ("set_vm_memory_high_watermark",)
BLOCKED = "the broker has blocked publishing (alarm): "


def test_an_alarm_is_called_an_alarm_and_costs_no_connection_and_no_copy(
    make_worker: MakeWorker, rabbitmq: RabbitMQServer, broker_vhost: str, client: stock.Client
) -> None:
    node = {name: 1000 * amount for name, amount in NODE.items()}
    worker = make_worker(hosts={HOST: {"n1": node}}, options={"oslo_messaging_rabbit": SHORT_HEARTBEAT})
    worker.start()
    worker.wait_ready()
    with raw.connect(broker_vhost) as raw_connection:
        # The casts have to be with the broker before the alarm, and their notifications must not.
        worker.signal(signal.SIGSTOP)
        metadata = {f"key-{number}": "x" * 250 for number in range(32)}
        for number in range(CASTS):
            client.cast(
                HOST, "begin_resource_claim", instance=instance_dict(number, metadata=metadata, **sized(vcpus=1))
            )
        rabbitmq.ctl(*WATERMARK, "absolute", "1000000")
        try:
            worker.signal(signal.SIGCONT)
            worker.wait_for_log("ClaimBegun", times=CASTS)
            worker.wait_for_log(BLOCKED)
            connected = worker.log().count("tracker-publisher: connected")  # it may have been stopped for too long
            # This takes longer than the broker's heartbeat time for a connection that it reads, and than TCP's time limit.
            for _ in range(6):
                rabbitmq.ctl("list_connections", "state")
        finally:
            rabbitmq.ctl(*WATERMARK, "0.4")
        worker.wait_for_log("the broker takes messages again after")
        wait_until(lambda: raw_connection.count("notifications.info") == CASTS + 1, "all notifications, once each")
        assert raw_connection.count(HOST_TOPIC) == 0
    assert client.call(HOST, "get_node")["running_vms"] == CASTS
    assert worker.log().count(BLOCKED) == 1
    assert worker.log().count("tracker-publisher: connected") == connected
    assert worker.terminate() == 0


def test_a_worker_that_starts_during_an_alarm_learns_of_it_and_stops_in_time(
    make_worker: MakeWorker, rabbitmq: RabbitMQServer
) -> None:
    worker = make_worker(hosts={HOST: {"n1": NODE}})
    rabbitmq.ctl(*WATERMARK, "absolute", "1000000")
    try:
        worker.start()
        worker.wait_ready()
        worker.wait_for_log(BLOCKED)
        assert worker.terminate(20) == 0
    finally:
        rabbitmq.ctl(*WATERMARK, "0.4")
