# SPDX-License-Identifier: Apache-2.0
"""Several brokers in the transport URL, of which some are dead, and a broker that restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.servers import RabbitMQServer
from tests.servers.proxy import Proxy
from tests.support import raw, stock
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, WorkerProcess

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

HOSTS = {HOST: {"n1": NODE}}
DURABLE = {"amqp_durable_queues": True}
# Nothing listens on these ports.
DEAD = ("127.0.0.1:1", "127.0.0.1:2")
CONNECTED = ("tracker-consumer: connected to ", "tracker-publisher: connected to ")


def with_others(url: str, *others: str) -> str:
    """The transport URL with other addresses in front, with the same account."""
    account, _, place = url.removeprefix("rabbit://").rpartition("@")
    return "rabbit://" + ",".join(f"{account}@{other}" for other in (*others, place))


def brokers(worker: WorkerProcess) -> list[str]:
    """The brokers of both connections, in the order in which they were opened."""
    lines = worker.log().splitlines()
    return [line.rpartition(" ")[2] for line in lines if any(said in line for said in CONNECTED)]


def test_dead_addresses_cost_no_wait(make_worker: MakeWorker, broker_vhost: str) -> None:
    worker = make_worker(hosts=HOSTS, transport_url=with_others(broker_vhost, *DEAD))
    worker.start()
    worker.wait_ready()

    assert "again in" not in worker.log()


@pytest.fixture
def second_broker(rabbitmq: RabbitMQServer) -> Iterator[Proxy]:
    """Another address of the broker."""
    with closing(Proxy(rabbitmq.port)) as proxy:
        proxy.open()
        yield proxy


def test_a_name_that_does_not_resolve_is_passed_over_with_one_warning(
    make_worker: MakeWorker, broker_vhost: str, second_broker: Proxy
) -> None:
    names = [f"broker-{number}.invalid:5672" for number in range(8)]
    account = broker_vhost.removeprefix("rabbit://").rpartition("@")[0]
    broker = f"rabbit://{account}@127.0.0.1:{second_broker.port}/{broker_vhost.rpartition('/')[2]}"
    worker = make_worker(hosts=HOSTS, transport_url=with_others(broker, *names))
    worker.start()
    worker.wait_ready()
    # Every other address is tried while the good one is away, several times.
    second_broker.cut(refuse=True)
    worker.wait_for_log("tracker-consumer: no connection", times=3)
    second_broker.resume()

    with stock.client(broker_vhost) as client:
        assert client.call(HOST, "oslo_rpc_server_ping") == "pong"
    for name in names:
        assert worker.log().count(f"the name of broker {name}/") == 1


def test_both_connections_are_to_the_same_broker(
    make_worker: MakeWorker, broker_vhost: str, second_broker: Proxy, rabbitmq: RabbitMQServer
) -> None:
    worker = make_worker(hosts=HOSTS, transport_url=with_others(broker_vhost, f"127.0.0.1:{second_broker.port}"))
    worker.start()
    worker.wait_ready()
    assert len(set(brokers(worker))) == 1

    rabbitmq.ctl("close_all_connections", "--vhost", broker_vhost.rpartition("/")[2], "a test")
    for said in CONNECTED:
        worker.wait_for_log(said, times=2)
    wait_until(lambda: len(set(brokers(worker)[2:])) == 1, lambda: f"the same broker again: {brokers(worker)}")


def test_a_ping_is_answered_within_three_seconds_of_a_brokers_restart(
    make_worker: MakeWorker, rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    url = with_others(broker_vhost, *DEAD)
    worker = make_worker(
        hosts=HOSTS, transport_url=url, options={"oslo_messaging_rabbit": {**DURABLE, "rabbit_interval_max": 30}}
    )
    worker.start()
    worker.wait_ready()
    rabbitmq.stop_app()
    # Rounds go by without a connection. A wait that grew would be long by now.
    worker.wait_for_log("tracker-consumer: no connection", times=12)
    rabbitmq.start_app()
    wait_until(lambda: _accepts(broker_vhost), "another client can connect")
    opened = time.monotonic()

    with stock.client(broker_vhost, timeout=20, **DURABLE) as client:
        assert client.call(HOST, "oslo_rpc_server_ping") == "pong"
    assert time.monotonic() - opened < 3


def _accepts(url: str) -> bool:
    with suppress(OSError), raw.connect(url):
        return True
    return False
