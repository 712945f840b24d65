# SPDX-License-Identifier: Apache-2.0
"""A worker with TLS connections to the broker: reads return data in different pieces than without TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.conftest import MakeWorker
from tests.servers import RabbitMQServer
from tests.servers.tls import tls_front
from tests.support import load, stock
from tests.support.builders import instance_dict
from tests.support.worker_process import NODE

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

TLS = {"ssl": True, "rabbit_interval_max": 1, "amqp_durable_queues": True}
DURABLE = {"amqp_durable_queues": True}


def through(port: int, rabbitmq: RabbitMQServer, url: str) -> str:
    assert f":{rabbitmq.port}/" in url
    return url.replace(f":{rabbitmq.port}/", f":{port}/")


def test_nothing_is_lost_done_twice_or_out_of_order_over_tls(
    make_worker: MakeWorker, rabbitmq: RabbitMQServer, broker_vhost: str, tmp_path: Path
) -> None:
    with tls_front(rabbitmq.port, tmp_path) as (port, certificate):
        worker = make_worker(
            transport_url=through(port, rabbitmq, broker_vhost),
            hosts={**load.HOSTS, "h3": {"n5": NODE}},
            options={"oslo_messaging_rabbit": {**TLS, "ssl_ca_file": certificate}},
        )
        worker.start()
        worker.wait_ready()
        with (
            stock.client(broker_vhost, timeout=10, **DURABLE) as client,
            stock.listener(broker_vhost, **DURABLE) as listener,
        ):
            flight = load.Load(client)
            flight.prepare()
            with flight.running():
                flight.wait_answered(50)
                # The request is longer than one TLS record and one read of the worker.
                large = instance_dict(1, metadata={f"key-{number}": "ž" * 200 for number in range(100)})
                client.call("h3", "begin_resource_claim", instance=large)
                rabbitmq.ctl("close_all_connections", "--vhost", broker_vhost.rpartition("/")[2], "a test")
            flight.check(listener)
            held = listener.wait_for("h3", "n5", 2)[-1]
            assert held.payload["metadata"] == large["metadata"]
        assert worker.terminate(8) == 0
        assert "Traceback" not in worker.log()


def test_a_certificate_of_an_unknown_authority_is_refused(
    make_worker: MakeWorker, rabbitmq: RabbitMQServer, broker_vhost: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with tls_front(rabbitmq.port, tmp_path) as (port, _), tls_front(rabbitmq.port, other) as (_, certificate):
        worker = make_worker(
            transport_url=through(port, rabbitmq, broker_vhost),
            hosts={"h1": {"n1": NODE}},
            options={"oslo_messaging_rabbit": {**TLS, "ssl_ca_file": certificate}},
        )
        worker.start()
        worker.wait_for_log("certificate verify failed")
        assert " ready: " not in worker.log()
