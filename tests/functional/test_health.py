# SPDX-License-Identifier: Apache-2.0
"""/livez and /readyz of real workers: what they say from the start to the end, and to whom."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.support import raw, stock
from tests.support.builders import instance_dict
from tests.support.deadline import wait_until
from tests.support.faulty import HANG, FaultyWorker
from tests.support.health import LISTENING, fetch, livez, port_of, readyz
from tests.support.worker_process import NODE, PROGRAM, WorkerProcess

HOSTS = {HOST: {"n1": NODE}}


def healthy(worker: WorkerProcess) -> None:
    wait_until(lambda: readyz(worker).status == 200, lambda: f"ready: {readyz(worker).body!r}")


def test_a_ready_worker_says_who_it_is_and_which_hosts_it_has(make_worker: MakeWorker) -> None:
    worker = make_worker(hosts={"h1": {"n1": NODE}, "h2": {"n2": NODE}}, options=LISTENING)
    worker.start()
    worker.wait_ready()
    healthy(worker)

    answer = readyz(worker)

    assert answer.headers["content-type"] == "application/json"
    document = answer.document
    assert (document["ready"], document["pid"], document["problems"]) == (True, worker.pid(), [])
    with closing(sqlite3.connect(worker.database)) as database:
        assert [document["ledger_id"]] == [row[0] for row in database.execute("SELECT ledger_id FROM histories")]
    assert {host: role["role"] for host, role in document["hosts"].items()} == {"h1": "active", "h2": "active"}
    assert fetch(port_of(worker), "/livez").document == {"alive": True}


def test_the_listener_answers_get_and_head_for_what_is_there_only(make_worker: MakeWorker) -> None:
    worker = make_worker(hosts=HOSTS, options=LISTENING)
    worker.start()
    port = port_of(worker)
    healthy(worker)

    head, get = (fetch(port, "/readyz", method) for method in ("HEAD", "GET"))
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(get.body)))
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
        refused = fetch(port, "/readyz", method)
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert fetch(port, "/nothing").status == 404
    assert "GET" not in worker.log()


def test_the_listener_is_there_before_broker_and_database(
    tmp_path: Path, postgresql: PostgreSQLServer, postgresql_url: str
) -> None:
    server = RabbitMQServer()
    options = {**LISTENING, "database": {"connection": postgresql_url}}
    with (
        closing(server),
        closing(WorkerProcess(tmp_path, transport_url=server.url, hosts=HOSTS, options=options)) as worker,
    ):
        subprocess.run([PROGRAM, f"--config-file={worker.configuration}", "db", "upgrade"], check=True)
        with postgresql.frozen():
            worker.start()
            answer = readyz(worker)
            assert (answer.status, answer.codes, livez(worker)) == (503, ["starting"], 200)
            assert "it waits for the database" in answer.document["problems"][0]["message"]
            worker.close()
        worker.start()
        wait_until(lambda: readyz(worker).codes == ["broker_unreachable"], lambda: str(readyz(worker)))
        message = readyz(worker).document["problems"][0]["message"]
        assert f"127.0.0.1:{server.port}" in message
        assert "[DEFAULT] transport_url" in message
        assert livez(worker) == 200

        server.open()

        healthy(worker)
        assert worker.terminate() == 0


def test_a_standby_is_ready_and_says_so(make_worker: MakeWorker) -> None:
    first, second = (make_worker(hosts=HOSTS, options=LISTENING, name=name) for name in ("first", "second"))
    first.start()
    healthy(first)
    second.start()
    healthy(second)

    assert readyz(second).document["hosts"][HOST]["role"] == "standby"
    first.kill()

    wait_until(lambda: readyz(second).document["hosts"][HOST]["role"] == "active", "the standby takes over")
    assert readyz(second).status == 200


def test_an_address_that_is_taken_ends_the_start_with_one_sentence(make_worker: MakeWorker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = make_worker(hosts=HOSTS, options={"health": {"listen": f"127.0.0.1:{port}"}})

        assert worker.run() == 1

    (line,) = worker.plain_lines()
    assert f"[health] listen 127.0.0.1:{port} cannot be used: Address already in use" in line


def test_a_worker_that_stops_says_so_until_its_end(
    make_worker: MakeWorker, client: stock.Client, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS, options={**LISTENING, "tracker": {"stop_seconds": 5}})
    worker.start()
    healthy(worker)
    port = port_of(worker)
    with raw.connect(broker_vhost) as connection, closing(sqlite3.connect(worker.database)) as database:
        database.isolation_level = None
        database.execute("BEGIN IMMEDIATE")  # the stop has to wait for the commit
        connection.publish(
            HOST_TOPIC, raw.packed(connection.request("begin_resource_claim", {"instance": instance_dict()}))
        )
        wait_until(lambda: connection.count(HOST_TOPIC) == 0, "the worker takes the request")
        worker.signal(signal.SIGTERM)

        wait_until(lambda: fetch(port, "/readyz").codes[:1] == ["stopping"], "it says that it stops")
        assert fetch(port, "/readyz").status == 503
        assert fetch(port, "/livez").status == 200
        assert worker.wait() == 0
    with pytest.raises(OSError):
        fetch(port, "/livez")


def test_an_engine_that_hangs_is_not_alive(tmp_path: Path, broker_vhost: str) -> None:
    worker = FaultyWorker(
        tmp_path,
        transport_url=broker_vhost,
        hosts=HOSTS,
        options={"health": {"listen": "127.0.0.1:0", "turn_seconds": 2}},
    )
    with closing(worker), stock.client(broker_vhost) as client:
        worker.ail("before_commit", 1, HANG)
        worker.start()
        healthy(worker)
        worker.arm()
        client.cast(HOST, "begin_resource_claim", instance=instance_dict())

        wait_until(lambda: livez(worker) == 503, "the engine hangs")

        assert fetch(port_of(worker), "/livez").document == {"alive": False}
        answer = readyz(worker)
        assert (answer.status, answer.codes[0]) == (503, "stalled")
        assert "[health] turn_seconds (2 s)" in answer.document["problems"][0]["message"]


def test_a_worker_of_another_ledger_is_not_ready_and_names_the_cure(make_worker: MakeWorker, tmp_path: Path) -> None:
    first = make_worker(hosts=HOSTS, options=LISTENING, name="first")
    first.start()
    healthy(first)
    assert first.terminate() == 0
    other = make_worker(
        hosts=HOSTS,
        options={**LISTENING, "database": {"connection": f"sqlite:///{tmp_path / 'other.sqlite'}"}},
        name="other",
    )
    other.start()

    wait_until(lambda: readyz(other).codes == ["other_ledger"], lambda: f"refused: {readyz(other).body!r}")

    answer = readyz(other)
    assert (answer.status, answer.document["hosts"][HOST]["role"]) == (503, "none")
    assert "tracker-worker host adopt h1" in answer.document["problems"][0]["message"]


def test_a_queue_that_the_broker_refuses_is_not_consumed(make_worker: MakeWorker, broker_vhost: str) -> None:
    with raw.connect(broker_vhost) as connection:
        connection.channel.queue_declare(HOST_TOPIC, durable=True, auto_delete=False, arguments={"x-max-length": 1})
        worker = make_worker(hosts=HOSTS, options=LISTENING)
        worker.start()

        wait_until(lambda: readyz(worker).codes == ["not_consuming"], lambda: f"{readyz(worker).body!r}")

        assert HOST in readyz(worker).document["problems"][0]["message"]


def test_an_alarm_of_the_broker_is_named(make_worker: MakeWorker, rabbitmq: RabbitMQServer) -> None:
    worker = make_worker(hosts=HOSTS, options={"health": {"listen": "127.0.0.1:0", "probe_interval_seconds": 1}})
    worker.start()
    healthy(worker)
    rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1000000")
    try:
        wait_until(lambda: readyz(worker).codes == ["broker_alarm"], lambda: f"{readyz(worker).body!r}")
        time.sleep(3)  # no probe passes meanwhile, and none is missed
        assert (readyz(worker).codes, livez(worker)) == (["broker_alarm"], 200)
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
    healthy(worker)


PROBED = 49
_MEASURED_SECONDS = 10


def test_a_probe_costs_less_than_a_millisecond_of_cpu(make_worker: MakeWorker, broker_vhost: str) -> None:
    """All that a worker without requests does is counted as the cost of its probes."""
    hosts = {f"h{number}": {"n1": NODE} for number in range(PROBED)}
    worker = make_worker(
        hosts=hosts,
        options={"health": {"listen": "127.0.0.1:0", "probe_interval_seconds": 1}, "bus": {"prefetch": 1000}},
    )
    worker.start()
    worker.wait_ready()
    healthy(worker)
    process = psutil.Process(worker.pid())

    with raw.connect(broker_vhost) as connection:
        # Another queue gets a copy of each probe, and counts them.
        spy = connection.channel.queue_declare("", exclusive=True).queue
        for topic in ("tracker", *(f"tracker.{host}" for host in hosts)):
            connection.channel.queue_bind(spy, raw.EXCHANGE, topic)
        copies: list[object] = []
        connection.channel.basic_consume(spy, no_ack=True, callback=copies.append)
        before = sum(process.cpu_times()[:2])
        began = time.monotonic()
        while time.monotonic() < began + _MEASURED_SECONDS:
            with suppress(TimeoutError):
                connection.channel.connection.drain_events(timeout=0.1)
        spent = sum(process.cpu_times()[:2]) - before

    assert len(copies) > 0.7 * _MEASURED_SECONDS * (PROBED + 1)
    assert spent / len(copies) < 0.001
