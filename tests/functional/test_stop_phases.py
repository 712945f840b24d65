# SPDX-License-Identifier: Apache-2.0
"""TERM or INT ends a worker in every phase of its life, in time and with exit code 0; a second signal ends it at once."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.servers import PostgreSQLServer
from tests.servers.proxy import Proxy
from tests.support import stock
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, PROGRAM, WorkerProcess

HOSTS = {HOST: {"n1": NODE}}
# [tracker] stop_seconds, and what the machine may take for the process's end.
STOP_SECONDS = 3
LIMIT = STOP_SECONDS + 2

Phase = Callable[[WorkerProcess], None]


@contextmanager
def silent_server() -> Iterator[socket.socket]:
    """A server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


@pytest.fixture
def quick(make_worker: MakeWorker) -> WorkerProcess:
    return make_worker(hosts=HOSTS, options={"tracker": {"stop_seconds": STOP_SECONDS}})


def ends(worker: WorkerProcess, number: signal.Signals = signal.SIGTERM) -> None:
    began = time.monotonic()
    worker.signal(number)
    assert worker.wait(30) == 0, worker.log()
    assert time.monotonic() - began < LIMIT, worker.log()
    assert "Traceback" not in worker.log()


def starting(worker: WorkerProcess) -> None:
    wait_until(lambda: "tracker-start" in worker.thread_names(), "the start begins")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_configuration_is_read(quick: WorkerProcess, number: signal.Signals) -> None:
    quick.configuration.unlink()
    os.mkfifo(quick.configuration)
    quick.start()
    starting(quick)

    quick.signal(number)

    assert quick.wait(12) == 0  # stop_seconds is not known yet


def test_a_stop_while_the_first_inventory_hangs(quick: WorkerProcess, tmp_path: Path) -> None:
    (tmp_path / "hanging_driver.py").write_text(
        "import threading\n"
        "from tracker_worker.inventory.fake import FakeDriver\n"
        "class HangingDriver(FakeDriver):\n"
        "    def get_available_resource(self, nodename):\n"
        "        threading.Event().wait()\n",
        encoding="utf-8",
    )
    metadata = tmp_path / "hanging_driver-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging-driver\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(
        "[tracker_worker.inventory]\nhanging = hanging_driver:HangingDriver\n", encoding="utf-8"
    )
    worker = WorkerProcess(
        tmp_path,
        transport_url="rabbit://127.0.0.1:1/",
        hosts=HOSTS,
        options={"tracker": {"stop_seconds": STOP_SECONDS, "inventory_driver": "hanging"}},
        environment={"PYTHONPATH": str(tmp_path)},
    )
    with closing(worker):
        worker.start()
        wait_until(lambda: "tracker-inven-1" in worker.thread_names(), "the first inventory begins")

        ends(worker)


def test_a_stop_without_a_broker(tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path, transport_url="rabbit://127.0.0.1:1/", hosts=HOSTS)
    worker.configure({"tracker": {"stop_seconds": STOP_SECONDS}})
    with closing(worker):
        worker.start()
        worker.wait_for_log("no connection to 127.0.0.1:1")

        ends(worker, signal.SIGINT)


def test_a_stop_while_the_broker_says_nothing(tmp_path: Path) -> None:
    with silent_server() as listener:
        port = listener.getsockname()[1]
        worker = WorkerProcess(tmp_path, transport_url=f"rabbit://127.0.0.1:{port}/", hosts=HOSTS)
        worker.configure({"tracker": {"stop_seconds": STOP_SECONDS}})
        with closing(worker):
            worker.start()
            wait_until(lambda: "tracker-consume" in worker.thread_names(), "it connects")

            ends(worker)


def test_a_stop_while_a_connected_broker_says_nothing(quick: WorkerProcess, broker_vhost: str) -> None:
    address, _, virtual_host = broker_vhost.rpartition("/")
    login, _, place = address.rpartition("@")
    with closing(Proxy(int(place.rpartition(":")[2]))) as proxy:
        proxy.open()
        quick.configure({"DEFAULT": {"transport_url": f"{login}@127.0.0.1:{proxy.port}/{virtual_host}"}})
        quick.start()
        quick.wait_ready()
        with stock.client(broker_vhost) as client:
            client.call(HOST, "get_node")
        proxy.stall()

        ends(quick)


def test_a_stop_while_the_database_says_nothing(
    quick: WorkerProcess, postgresql: PostgreSQLServer, postgresql_url: str
) -> None:
    quick.configure({"database": {"connection": postgresql_url}})
    subprocess.run([PROGRAM, f"--config-file={quick.configuration}", "db", "upgrade"], check=True)
    with postgresql.frozen():
        quick.start()
        starting(quick)
        ends(quick)
    quick.start()
    quick.wait_ready()
    with postgresql.frozen():
        time.sleep(1)  # a renewal of the lease, or none: either way the stop ends in time
        ends(quick)


def test_a_stop_while_the_database_is_locked(quick: WorkerProcess) -> None:
    quick.start()
    quick.wait_ready()
    with closing(sqlite3.connect(quick.database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        ends(quick)
        quick.start()
        starting(quick)
        ends(quick)


def test_a_signal_that_was_ignored_before_is_heard(tmp_path: Path) -> None:
    """A shell has the programs that it starts in the background ignore SIGINT."""
    worker = WorkerProcess(tmp_path, transport_url="rabbit://127.0.0.1:1/", hosts=HOSTS)
    with closing(worker):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            worker.start()
        finally:
            signal.signal(signal.SIGINT, before)
        worker.wait_for_log("no connection to 127.0.0.1:1")

        worker.signal(signal.SIGINT)

        assert worker.wait(12) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_ends_with_zero_also_where_the_signal_was_ignored(
    tmp_path: Path, broker_vhost: str, number: signal.Signals
) -> None:
    configuration = tmp_path / "watch.conf"
    configuration.write_text(f"[DEFAULT]\ntransport_url = {broker_vhost}\n", encoding="utf-8")
    command = [str(PROGRAM), f"--config-file={configuration}", "watch"]
    ignoring = f"import os, signal; signal.signal({int(number)}, signal.SIG_IGN); os.execv({command[0]!r}, {command!r})"
    with subprocess.Popen([sys.executable, "-c", ignoring], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("watching ")
            process.send_signal(number)
            assert process.wait(5) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_watch_ends_while_the_broker_says_nothing(tmp_path: Path) -> None:
    configuration = tmp_path / "watch.conf"
    with silent_server() as listener:
        url = f"rabbit://127.0.0.1:{listener.getsockname()[1]}/"
        configuration.write_text(f"[DEFAULT]\ntransport_url = {url}\n", encoding="utf-8")
        with subprocess.Popen([PROGRAM, f"--config-file={configuration}", "watch"]) as process:
            try:
                connected, _ = listener.accept()
                with connected:
                    process.terminate()
                    assert process.wait(3) == 0
            finally:
                process.kill()
