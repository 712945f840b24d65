# SPDX-License-Identifier: Apache-2.0
"""USR2: a report on stderr in every phase of a worker, which neither ends nor waits for it."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.functional.conftest import HOST, MakeWorker
from tests.servers import RabbitMQServer
from tests.support import stock
from tests.support.builders import instance_dict
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, WorkerProcess

HOSTS = {HOST: {"n1": NODE}}
END = "--- end of report ---"


def wait_until_it_hears(worker: WorkerProcess) -> None:
    """Wait until the command has begun: until then the signal has its default action, which is Python's and not ours."""
    bit = 1 << (signal.SIGUSR2 - 1)

    def hears() -> bool:
        status = Path(f"/proc/{worker.pid()}/status").read_text(encoding="utf-8")
        masks = re.findall(r"^Sig(?:Blk|Cgt):\s*([0-9a-f]+)$", status, re.MULTILINE)
        return any(int(mask, 16) & bit for mask in masks)

    wait_until(hears, "the worker blocks or catches SIGUSR2")


def asked(worker: WorkerProcess) -> str:
    """The next report of a worker, without its first and last line."""
    before = worker.log().count(END)
    worker.signal(signal.SIGUSR2)
    worker.wait_for_log(END, times=before + 1)
    head = f"--- report of tracker-worker {worker.pid()} ---\n"
    return worker.log().split(head)[before + 1].split(END)[0]


def test_a_report_tells_what_a_serving_worker_does(make_worker: MakeWorker, client: stock.Client) -> None:
    # The report comes although the log has no line below ERROR.
    worker = make_worker(hosts=HOSTS, options={"DEFAULT": {"default_log_levels": "tracker_worker=ERROR"}})
    worker.start()
    wait_until_it_hears(worker)
    wait_until(lambda: "phase: serving" in asked(worker), "the worker has said READY=1")
    client.call(HOST, "begin_resource_claim", instance=instance_dict(1))
    client.call(HOST, "begin_resource_claim", instance=instance_dict(2))

    text = asked(worker)
    ledger_id = client.call(HOST, "list_nodes")[0]["ledger_id"]

    assert f"  ledger_id: {ledger_id}\n" in text
    assert f"  {HOST}: active, does its chores, 1 node, 2 allocations\n" in text
    for thread in ("MainThread", "tracker-engine", "tracker-report", "tracker-publisher"):
        assert re.search(rf"^  {thread}: tracker_worker/\S+:\d+$", text, re.MULTILINE), thread
    for queue in ("unsettled", "publishing", "undecided", "unadmitted", "refused_dead_letters"):
        assert re.search(rf"^  {queue}: \d+ messages?, \d+ bytes?$", text, re.MULTILINE), queue
    assert "  database: Pool size: " in text
    assert "\ndecisions:\n" in text
    assert re.search(r"^  transport_url = rabbit://\*\*\*@127\.0\.0\.1:\d+/", text, re.MULTILINE)
    assert f"  tracker.hosts = ['{HOST}']\n" in text
    assert worker.terminate() == 0


def test_a_report_comes_while_the_configuration_is_read(make_worker: MakeWorker) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.configuration.unlink()
    os.mkfifo(worker.configuration)
    worker.start()
    wait_until(lambda: "tracker-start" in worker.thread_names(), "the start begins")
    text = asked(worker)
    assert "  phase: starting\n" in text
    assert re.search(r"^  tracker-start: tracker_worker/cli/context.py:\d+$", text, re.MULTILINE)
    assert "\nconfiguration:\n" not in text


def test_a_report_comes_before_the_worker_is_ready(tmp_path: Path) -> None:
    server = RabbitMQServer()  # it is not started
    with closing(server), closing(WorkerProcess(tmp_path, transport_url=server.url, hosts=HOSTS)) as worker:
        worker.start()
        worker.wait_for_log(f"no connection to 127.0.0.1:{server.port}")
        text = asked(worker)
        assert "  phase: starting\n" in text
        assert "  broker: not connected\n" in text
        assert f"  {HOST}: pending, " in text
        password = re.search(r"//[^:]*:([^@]*)@", server.url)
        assert password is not None
        assert f":{password[1]}@" not in text
        assert worker.terminate() == 0


def test_the_signal_ends_no_worker_at_any_moment_of_its_start(make_worker: MakeWorker, client: stock.Client) -> None:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    wait_until_it_hears(worker)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        worker.signal(signal.SIGUSR2)
        time.sleep(0.002)
    worker.wait_ready()
    assert END in worker.log()
    assert client.call(HOST, "begin_resource_claim", instance=instance_dict(1))["state"] == "begun"
    assert worker.terminate() == 0


def test_a_report_that_nobody_reads_holds_up_neither_requests_nor_the_stop(
    make_worker: MakeWorker, client: stock.Client, tmp_path: Path, unread_pipe: int
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "s"))
        notified.settimeout(30)
        worker = make_worker(hosts=HOSTS, environment={"NOTIFY_SOCKET": str(tmp_path / "s")})
        worker.start(stderr=unread_pipe)
        while notified.recv(1000) != b"READY=1":
            pass  # the state of the start

    for number in range(20):
        worker.signal(signal.SIGUSR2)
        client.call(HOST, "begin_resource_claim", instance=instance_dict(number))
    worker.signal(signal.SIGTERM)

    assert worker.wait(10) == 0


def test_a_report_comes_while_the_worker_stops(make_worker: MakeWorker, client: stock.Client) -> None:
    worker = make_worker(hosts=HOSTS, options={"tracker": {"stop_seconds": 8}})
    worker.start()
    worker.wait_ready()
    with closing(sqlite3.connect(worker.database, timeout=10, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        client.cast(HOST, "begin_resource_claim", instance=instance_dict(1))
        wait_until(lambda: "undecided: 1 message, " in asked(worker), "the request waits for the database")
        worker.signal(signal.SIGTERM)
        worker.wait_for_log("stopping on signal")
        text = asked(worker)
        connection.execute("ROLLBACK")
    assert "  phase: stopping\n" in text
    assert re.search(r"^  tracker-stop: tracker_worker/", text, re.MULTILINE)
    assert worker.wait(20) == 0
