# SPDX-License-Identifier: Apache-2.0
"""What a worker says of itself while the network, the broker or the database is away: it is alive, and not ready.

The broker is away for HEALTH_OUTAGE_SECONDS (20)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.servers.proxy import Proxy
from tests.support import stock
from tests.support.deadline import wait_until
from tests.support.health import livez, readyz, seconds_until, systemd
from tests.support.worker_process import NODE, PROGRAM, Options, WorkerProcess

HOSTS = {HOST: {"n1": NODE}}
INTERVAL = 3
OPTIONS: Options = {"health": {"listen": "127.0.0.1:0", "probe_interval_seconds": INTERVAL}}
# What the machine may take for the question and the answer.
MARGIN = 1.5
_CONSUME = b"\x00\x3c\x00\x14\x00\x00"  # class basic, method consume, and a field that is 0: AMQP 0-9-1, 1.8.3.3
OUTAGE_SECONDS = float(os.environ.get("HEALTH_OUTAGE_SECONDS", "20"))

# Stock clients leave sockets open when they reconnect.
pytestmark = [pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"), pytest.mark.long]


@pytest.fixture
def proxy(rabbitmq: RabbitMQServer) -> Iterator[Proxy]:
    with closing(Proxy(rabbitmq.port)) as proxy:
        proxy.notice(_CONSUME)
        proxy.open()
        yield proxy


@pytest.fixture
def behind(proxy: Proxy, rabbitmq: RabbitMQServer, broker_vhost: str) -> str:
    """The URL of the broker behind the proxy."""
    return broker_vhost.replace(f"127.0.0.1:{rabbitmq.port}/", f"127.0.0.1:{proxy.port}/")


def healthy(worker: WorkerProcess, *, seconds: float = 60) -> None:
    wait_until(lambda: readyz(worker).status == 200, lambda: f"ready: {readyz(worker).body!r}", seconds=seconds)


def unready(worker: WorkerProcess, *codes: str, within: float) -> None:
    """/readyz says these codes within so many seconds, and the worker is alive all the time."""
    seconds_until(lambda: readyz(worker).status == 503, at_most=within, livez_of=worker)
    assert readyz(worker).codes == list(codes)
    assert livez(worker) == 200


@pytest.mark.parametrize("load", [False, True], ids=["idle", "under load"])
def test_a_worker_that_hears_nothing_any_more_is_deaf_within_two_intervals(
    make_worker: MakeWorker, proxy: Proxy, behind: str, broker_vhost: str, load: bool
) -> None:
    worker = make_worker(hosts=HOSTS, options=OPTIONS, transport_url=behind)
    worker.start()
    healthy(worker)
    with stock.client(broker_vhost) as client:
        requests = 100 if load else 0
        for number in range(2 * requests):
            if number == requests:
                proxy.stall(noticed=True)  # what follows waits at the broker, or is on its way for ever
            client.cast(HOST, "oslo_rpc_server_ping")
        proxy.stall(noticed=True)

        unready(worker, "deaf", within=2 * INTERVAL + MARGIN)

    message = readyz(worker).document["problems"][0]["message"]
    assert HOST in message
    assert "[health] probe_interval_seconds" in message
    # The missed heartbeats end the connection, and another one is opened.
    healthy(worker)


def test_a_broker_that_answers_nothing_on_either_connection_is_unreachable_or_not_heard(
    make_worker: MakeWorker, proxy: Proxy, behind: str
) -> None:
    worker = make_worker(hosts=HOSTS, options=OPTIONS, transport_url=behind)
    worker.start()
    healthy(worker)
    proxy.stall()

    seconds_until(lambda: readyz(worker).status == 503, at_most=2 * INTERVAL + MARGIN, livez_of=worker)
    assert set(readyz(worker).codes) <= {"deaf", "broker_unreachable"}
    wait_until(lambda: "broker_unreachable" in readyz(worker).codes, "nothing that was published is answered")


def test_a_standby_that_hears_nothing_any_more_is_deaf_within_two_intervals(
    make_worker: MakeWorker, proxy: Proxy, behind: str
) -> None:
    first = make_worker(hosts=HOSTS, options=OPTIONS, name="first")
    first.start()
    healthy(first)
    standby = make_worker(hosts=HOSTS, options=OPTIONS, name="standby", transport_url=behind)
    standby.start()
    healthy(standby)
    assert readyz(standby).document["hosts"][HOST]["role"] == "standby"
    proxy.stall(noticed=True)

    unready(standby, "deaf", within=2 * INTERVAL + MARGIN)

    assert readyz(first).status == 200


def test_a_frozen_database_is_noticed_within_two_intervals_and_ten_seconds(
    make_worker: MakeWorker, postgresql: PostgreSQLServer, postgresql_url: str, tmp_path: Path
) -> None:
    with systemd(tmp_path, watchdog_seconds=30) as manager:
        worker = make_worker(
            hosts=HOSTS,
            options={**OPTIONS, "database": {"connection": postgresql_url}},
            environment=manager.environment,
        )
        subprocess.run([PROGRAM, f"--config-file={worker.configuration}", "db", "upgrade"], check=True)
        worker.start()
        healthy(worker)
        manager.hear(0.5)
        with postgresql.frozen():
            unready(worker, "store_unavailable", within=2 * INTERVAL + 10 + MARGIN)
            assert "[database] connection" in readyz(worker).document["problems"][0]["message"]
            frozen = time.monotonic()
            while time.monotonic() < frozen + 25:  # at this time each pass of the engine waits for the database
                assert livez(worker) == 200
                assert readyz(worker).codes == ["store_unavailable"]
                time.sleep(0.2)
            assert "WATCHDOG=1" in manager.hear(0.5)
        healthy(worker)
    assert worker.terminate() == 0


def test_without_a_broker_a_worker_is_alive_and_is_not_restarted(tmp_path: Path) -> None:
    server = RabbitMQServer()
    with closing(server), systemd(tmp_path, watchdog_seconds=2) as manager:
        server.open()
        worker = WorkerProcess(
            tmp_path, transport_url=server.url, hosts=HOSTS, options=OPTIONS, environment=manager.environment
        )
        with closing(worker):
            worker.start()
            healthy(worker)
            process, since = worker.pid(), time.monotonic()
            server.kill()

            wait_until(lambda: readyz(worker).codes == ["broker_unreachable"], lambda: f"{readyz(worker).body!r}")
            while time.monotonic() < since + OUTAGE_SECONDS:
                assert "WATCHDOG=1" in manager.hear(2.5)
                assert (livez(worker), readyz(worker).codes) == (200, ["broker_unreachable"])
            server.start()

            healthy(worker)
            assert worker.is_alive()
            assert worker.pid() == process
            assert worker.terminate() == 0


def test_a_worker_that_was_stopped_for_a_while_is_not_deaf_when_it_goes_on(make_worker: MakeWorker) -> None:
    worker = make_worker(hosts=HOSTS, options={"health": {"listen": "127.0.0.1:0", "probe_interval_seconds": 1}})
    worker.start()
    healthy(worker)
    worker.signal(signal.SIGSTOP)
    time.sleep(5)  # more than two intervals, and less than the heartbeats allow
    worker.signal(signal.SIGCONT)

    for _ in range(40):
        assert "deaf" not in readyz(worker).codes
        assert livez(worker) == 200
        time.sleep(0.05)
    healthy(worker)
