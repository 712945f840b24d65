# SPDX-License-Identifier: Apache-2.0
"""A worker starts, stops cleanly, reloads its configuration while it serves, and is succeeded by another worker."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.servers import RabbitMQServer
from tests.support import load, raw, stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, WorkerProcess

HOSTS = {HOST: {"n1": NODE}}


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the write lock of the SQLite file."""
    with closing(sqlite3.connect(database, timeout=10, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def claim(client: stock.Client, number: int = 1, **arguments: Any) -> dict[str, Any]:
    instance = instance_dict(number, **sized(vcpus=1, memory_mb=100, disk_gb=1))
    begun: dict[str, Any] = client.call(HOST, "begin_resource_claim", instance=instance, **arguments)
    return begun


def test_a_worker_waits_for_a_broker_that_starts_later(tmp_path: Path) -> None:
    server = RabbitMQServer()
    with closing(server):
        worker = WorkerProcess(tmp_path, transport_url=server.url, hosts=HOSTS)
        with closing(worker):
            worker.start()
            worker.wait_for_log(f"no connection to 127.0.0.1:{server.port}", times=4)
            assert "ready" not in worker.log()

            server.open()
            worker.wait_ready()

            with stock.client(server.url) as client:
                assert claim(client)["state"] == "begun"


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_a_worker_that_is_terminated_under_load_stops_in_time_and_loses_nothing(
    make_worker: MakeWorker, client: stock.Client, listener: stock.Listener, broker_vhost: str, queue_type: str
) -> None:
    # The small prefetch keeps the worker from processing all requests before it is ready.
    worker = make_worker(hosts=load.HOSTS, options={"bus": {"queue_type": queue_type, "prefetch": 6}})
    worker.start()
    worker.wait_ready()
    flight = load.Load(client)
    flight.prepare()
    assert worker.terminate(8) == 0

    with raw.connect(broker_vhost) as raw_connection, flight.running():
        flight.wait_piled_up(raw_connection)
        for answered in (10, 60, 110):
            worker.start()
            worker.wait_ready()
            flight.wait_answered(answered)
            assert worker.terminate(8) == 0
            assert "Traceback" not in worker.log()
        assert flight.answered < load.CALLS
        worker.start()

    flight.check(listener)
    # A clean stop publishes no notification twice.
    assert len(listener.heard()) == len({one.message_id for one in listener.heard()})
    assert worker.terminate(8) == 0


def test_a_second_signal_ends_a_worker_that_waits_for_the_store(
    make_worker: MakeWorker, client: stock.Client, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    with raw.connect(broker_vhost) as raw_connection:
        with locked(worker.database):
            request = raw_connection.request("begin_resource_claim", {"instance": instance_dict()}, call=True)
            raw_connection.publish(HOST_TOPIC, raw.packed(request))
            # The worker has received the request and cannot acknowledge it before a commit, which the lock prevents.
            wait_until(lambda: raw_connection.count(HOST_TOPIC) == 0, "the worker takes the request")
            worker.signal(signal.SIGTERM)
            worker.wait_for_log("stopping on signal")

            worker.signal(signal.SIGTERM)

            assert worker.wait(2) == 1
        worker.start()
        assert raw_connection.reply(request["_msg_id"])["result"]["state"] == "begun"


def test_requests_that_wait_for_the_store_are_done_when_it_is_available(
    make_worker: MakeWorker, client: stock.Client, broker_vhost: str
) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()

    with ThreadPoolExecutor(1) as pool, raw.connect(broker_vhost) as raw_connection:
        with locked(worker.database):
            waiting = pool.submit(claim, client)
            for number in range(2, 50):
                client.cast(HOST, "begin_resource_claim", instance=instance_dict(number))
            wait_until(lambda: raw_connection.count(HOST_TOPIC) == 0, "the worker takes all of them")
            assert not waiting.done()
        assert waiting.result(30)["state"] == "begun"
    assert client.call(HOST, "get_node")["running_vms"] == 49


def test_a_sighup_reloads_options_and_inventory_without_a_restart(
    make_worker: MakeWorker, client: stock.Client
) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    claim(client, 1)
    worker.configure({"tracker": {"claim_timeout_seconds": 33, "missing_limit": "capacity"}})
    worker.write_inventory({HOST: {"n1": {**NODE, "vcpus": 7}, "n2": NODE}})

    worker.reload()

    def vcpus() -> list[tuple[str, int | None]]:
        return [(view["node"], view["vcpus"]) for view in client.call(HOST, "list_nodes")]

    wait_until(lambda: vcpus() == [("n1", 7), ("n2", NODE["vcpus"])], "both nodes have the new inventory")
    begun = client.call(HOST, "begin_resource_claim", instance=instance_dict(2, node="n1"))
    lifetime = datetime.fromisoformat(begun["expires_at"]) - datetime.fromisoformat(begun["begun_at"])
    assert lifetime == timedelta(seconds=33)
    assert begun["limit_source"] == "capacity"
    # The earlier claim still exists.
    assert client.call(HOST, "get_node", node="n1")["running_vms"] == 2


def test_a_sighup_with_invalid_files_changes_nothing(make_worker: MakeWorker, client: stock.Client) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    before = client.call(HOST, "get_node")
    worker.configure({"tracker": {"claim_timeout_seconds": "soon"}})
    worker.inventory.write_text("nodes: [", encoding="utf-8")

    worker.reload()

    worker.wait_for_log("claim_timeout_seconds")
    worker.wait_for_log(str(worker.inventory))
    assert client.call(HOST, "update_available_resource") == [before]
    begun = claim(client)
    assert datetime.fromisoformat(begun["expires_at"]) - datetime.fromisoformat(begun["begun_at"]) == timedelta(
        seconds=600
    )


def test_a_sighup_with_a_flag_that_is_no_flag_changes_nothing(make_worker: MakeWorker, client: stock.Client) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    worker.configure({"DEFAULT": {"debug": "perhaps"}})

    worker.reload()

    assert "the configuration is not reloaded" in worker.log()
    assert client.call(HOST, "get_node")["running_vms"] == 0


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_a_standby_takes_over_when_the_active_worker_is_killed(
    make_worker: MakeWorker, client: stock.Client, listener: stock.Listener, queue_type: str
) -> None:
    options = {"bus": {"queue_type": queue_type}}
    first, second = (make_worker(hosts=load.HOSTS, options=options, name=name) for name in ("first", "second"))
    first.start()
    first.wait_ready()
    second.start()
    second.wait_ready()
    flight = load.Load(client)
    flight.prepare()
    assert "chores of host" in first.log()
    assert "chores of host" not in second.log()

    with flight.running():
        flight.wait_answered(100)
        first.kill()

    flight.check(listener)
    for host in load.HOSTS:
        second.wait_for_log(f"does the chores of host {host}")
    assert second.terminate(8) == 0


def test_a_restarted_worker_has_its_claims_and_usage(make_worker: MakeWorker, client: stock.Client) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    begun = claim(client)
    view = client.call(HOST, "get_node")
    assert worker.terminate() == 0

    worker.start()

    assert client.call(HOST, "list_claims") == [begun]
    assert client.call(HOST, "get_node") == view
