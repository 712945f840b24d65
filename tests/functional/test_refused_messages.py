# SPDX-License-Identifier: Apache-2.0
"""Messages that the broker does not take: too large, or with headers that cannot be written again. Only they are concerned."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.raw import deep_table, wide_table
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker.errors import AnswerTooLarge

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

HOSTS = {HOST: {"n1": NODE}, "h2": {"m1": NODE}}
LIMIT = 100_000
DEFAULT_LIMIT = 134_217_728  # of RabbitMQ 3.10
DEFAULT_FRAME = 131_072


@contextmanager
def broker_option(rabbitmq: RabbitMQServer, name: str, value: int, default: int) -> Iterator[None]:
    def put(number: int) -> None:
        expression = (
            f"application:set_env(rabbit, {name}, {number}), persistent_term:put({{rabbit, {name}}}, {number})."
        )
        rabbitmq.ctl("eval", expression)

    put(value)
    try:
        yield
    finally:
        put(default)


@pytest.fixture
def limited_worker(make_worker: MakeWorker, rabbitmq: RabbitMQServer) -> Iterator[WorkerProcess]:
    """A worker whose broker takes messages of at most LIMIT bytes; the broker reads the option when a channel is opened."""
    with broker_option(rabbitmq, "max_message_size", LIMIT, DEFAULT_LIMIT):
        worker = make_worker(hosts=HOSTS)
        worker.start()
        worker.wait_ready()
        yield worker


def ping(client: stock.Client, host: str) -> float:
    """The seconds that a ping takes."""
    began = time.monotonic()
    client.call(host, "oslo_rpc_server_ping")
    return time.monotonic() - began


def test_an_answer_that_is_too_large_for_the_broker_becomes_an_error_and_delays_nobody(
    limited_worker: WorkerProcess, client: stock.Client
) -> None:
    worker = limited_worker
    for number in range(1, 400):
        client.cast(HOST, "begin_resource_claim", instance=instance_dict(number, node="n1", **sized(vcpus=0)))
    wait_until(lambda: client.call(HOST, "get_node", node="n1")["running_vms"] == 399, "all claims")
    for _ in range(2):  # at the second time the limit is known
        with pytest.raises(AnswerTooLarge) as caught:
            client.call(HOST, "list_claims")
        assert caught.value.kwargs["bytes"] > caught.value.kwargs["limit"] == LIMIT
        assert ping(client, "h2") < 3
        assert ping(client, HOST) < 3
    worker.wait_for_log("the broker has closed a channel")
    assert worker.terminate() == 0
    assert worker.log().count("the broker has closed a channel") == 1
    assert worker.log().count("tracker-publisher: connected") == 1


def test_a_notification_that_is_too_large_for_the_broker_delays_no_answer_also_after_a_restart(
    limited_worker: WorkerProcess, client: stock.Client, broker_vhost: str
) -> None:
    worker = limited_worker
    with raw.connect(broker_vhost) as raw_connection:
        # A quote has two bytes in a request without an envelope, and four in a notification.
        quotes = {f"k{number}": '"' * 200 for number in range(110)}
        instance = instance_dict(1, node="n1", metadata=quotes, image_meta=quotes)
        request = json.dumps(raw_connection.request("begin_resource_claim", {"instance": instance})).encode()
        assert len(request) < LIMIT
        raw_connection.publish(HOST_TOPIC, request)
    worker.wait_for_log("the broker does not take a message")
    for host in HOSTS:
        assert ping(client, host) < 3
    assert worker.terminate() == 0
    worker.start()
    worker.wait_ready()
    worker.wait_for_log("the broker does not take a message")
    for _ in range(3):
        for host in HOSTS:
            assert ping(client, host) < 3
    assert worker.log().count("tracker-publisher: connected") == 1


@pytest.mark.parametrize("frame", [8192, DEFAULT_FRAME])
@pytest.mark.parametrize("table", [deep_table(600), wide_table(39_000)], ids=["deep", "wide"])
def test_a_bad_cast_is_parked_whatever_its_headers_are(
    make_worker: MakeWorker,
    rabbitmq: RabbitMQServer,
    client: stock.Client,
    broker_vhost: str,
    frame: int,
    table: bytes,
) -> None:
    with (
        raw.connect(broker_vhost) as raw_connection,  # before frames become small, so that it can send such headers
        broker_option(rabbitmq, "frame_max", frame, DEFAULT_FRAME),
    ):
        worker = make_worker(hosts=HOSTS)
        worker.start()
        worker.wait_ready()
        raw_connection.publish_table(HOST_TOPIC, b"no request", table)
        assert wait_until(lambda: raw_connection.count(raw.DEAD_LETTERS), "the cast is parked") == 1
        for host in HOSTS:
            assert ping(client, host) < 3
        assert worker.is_alive()
        assert worker.log().count("tracker-publisher: connected") == 1
        assert worker.log().count("Traceback") == 0
