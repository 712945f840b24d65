# SPDX-License-Identifier: Apache-2.0
"""A consumer that is gone holds up only what is for it: a client that has ended, a notification topic whose queue is full."""

from __future__ import annotations

import time

import psutil

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.support import raw, stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, WorkerProcess

HOSTS = {HOST: {"n1": NODE}, "h2": {"m1": NODE}}
CLAIMS = 2500
FULL = {"x-max-length": 10, "x-overflow": "reject-publish"}


def megabytes(worker: WorkerProcess) -> float:
    assert worker._process is not None
    return psutil.Process(worker._process.pid).memory_info().rss / 2**20


def test_answers_to_a_client_that_is_gone_delay_no_other_and_use_bounded_memory(
    make_worker: MakeWorker, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    with raw.connect(broker_vhost) as raw_connection, stock.client(broker_vhost) as client:
        for number in range(300):
            client.cast(HOST, "begin_resource_claim", instance=instance_dict(number, node="n1", **sized(vcpus=0)))
        wait_until(lambda: client.call(HOST, "get_node", node="n1")["running_vms"] == 300, "every claim is decided")
        size = len(str(client.call(HOST, "list_claims")))
        before = megabytes(worker)
        for _ in range(3000):
            request = raw_connection.request(
                "list_claims", {}, call=True, keys={"_reply_q": "reply_of_somebody_who_is_gone"}
            )
            raw_connection.publish(HOST_TOPIC, raw.packed(request), expiration="600000")
        assert size * 3000 > 250 * 2**20
        slowest = peak = 0.0
        while raw_connection.count(HOST_TOPIC) or slowest == 0:
            began = time.monotonic()
            client.call("h2", "oslo_rpc_server_ping")
            slowest = max(slowest, time.monotonic() - began)
            peak = max(peak, megabytes(worker))
            time.sleep(0.1)
        client.call(HOST, "oslo_rpc_server_ping")
        assert slowest < 3, "the engine makes the answers of a whole batch before it looks at the next message"
        assert peak - before < 150


def test_a_full_notification_topic_keeps_nothing_from_another_topic(make_worker: MakeWorker, broker_vhost: str) -> None:
    with raw.connect(broker_vhost) as raw_connection:
        channel = raw_connection.channel
        channel.exchange_declare(raw.EXCHANGE, "topic", durable=False, auto_delete=False)
        for queue in ("slow.info", "slow.warn"):
            channel.queue_declare(queue, durable=False, auto_delete=False, arguments=FULL)
            channel.queue_bind(queue, raw.EXCHANGE, queue)
        worker = make_worker(hosts=HOSTS, options={"notifications": {"topics": "notifications, slow"}})
        worker.start()
        worker.wait_ready()
        with stock.client(broker_vhost) as client, stock.listener(broker_vhost) as listener:
            for number in range(CLAIMS):
                instance = instance_dict(number, node="n1", **sized(vcpus=0))
                raw_connection.publish(
                    HOST_TOPIC, raw.packed(raw_connection.request("begin_resource_claim", {"instance": instance}))
                )
            wait_until(
                lambda: client.call(HOST, "get_node", node="n1")["running_vms"] == CLAIMS, "every claim is decided"
            )
            listener.wait_for(HOST, "n1", client.call(HOST, "get_node", node="n1")["sequence"])
        assert worker.log().count("slow.info refuses messages") == 1
        assert raw_connection.count("slow.info") == 10
