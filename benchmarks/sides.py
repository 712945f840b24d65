# SPDX-License-Identifier: Apache-2.0
"""The sides of the comparison and their start. All use the same broker and the same configuration file; each has a virtual
host and a database of its own.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.generator import ROOT
from benchmarks.job import NOTIFICATIONS
from benchmarks.stage import Stage
from benchmarks.usage import child
from benchmarks.workload import CAPACITY, NODE
from tests.support.health import LISTENING, fetch, port_of
from tests.support.worker_process import Nodes, Options, WorkerProcess

HOST = "host-1"
OURS = "ours, SQLite"
OURS_POSTGRESQL = "ours, PostgreSQL"
STOCK = "stock, does nothing"
EQUAL = "stock, equal work"
LIMIT = "limit"
SIDES = (OURS, OURS_POSTGRESQL, STOCK, EQUAL, LIMIT)
WATCHED = "ours, SQLite, watched"
"""The first side with somebody who asks for its metrics, its page and its health every second."""

_MODULES = {STOCK: "stock", EQUAL: "equal", LIMIT: "limit"}
_NOTIFYING = (OURS, OURS_POSTGRESQL, WATCHED, EQUAL)
# The options that make all queues durable, with the worker's own queues of the same type.
QUEUE_TYPES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "classic": {"bus": {"queue_type": "classic"}, "oslo_messaging_rabbit": {"amqp_durable_queues": True}},
    "quorum": {"bus": {"queue_type": "quorum"}, "oslo_messaging_rabbit": {"rabbit_quorum_queue": True}},
}
_READY_SECONDS = 60
# A first start with a thousand hosts takes the better part of a minute.
_START_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Running:
    """A server that consumes.

    ``url`` is its broker, ``watched`` its process ids by name in the figures, ``notifications`` the queue that gets its
    notifications ('' for none), ``database`` the SQLAlchemy URL of its database.
    """

    url: str
    watched: Mapping[str, int]
    notifications: str
    database: str
    start_seconds: float


@contextmanager
def running(
    stage: Stage,
    side: str,
    queue_type: str,
    *,
    hosts: Mapping[str, Nodes] | None = None,
    options: Options | None = None,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[str], None] | None = None,
) -> Iterator[Running]:
    """Start one side on an empty broker and end it afterwards.

    ``prepare`` gets the SQLAlchemy URL of the side's database before the start.
    Raises AssertionError: the server does not start; the message holds its log.
    """
    with ExitStack() as stack:
        url = stack.enter_context(stage.virtual_host())
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="tracker-benchmark-")))
        watched = {"broker": stage.broker_pid}
        worker = WorkerProcess(
            directory,
            transport_url=url,
            hosts=hosts or {HOST: {NODE: CAPACITY}},
            options=QUEUE_TYPES[queue_type],
            environment=environment,
        )
        worker.configure(options or {})
        if side == WATCHED:
            worker.configure(LISTENING)
        worker.database.parent.mkdir()
        database = f"sqlite:///{worker.database}"
        if side == OURS_POSTGRESQL:
            database = stack.enter_context(stage.database())
            worker.configure({"database": {"connection": database}})
            watched["database"] = stage.database_pid
        if prepare is not None:
            prepare(database)
        begun = time.perf_counter()
        if side in _MODULES:
            watched["server"] = stack.enter_context(_program(_MODULES[side], worker.configuration))
        else:
            watched["server"] = stack.enter_context(working(worker))
            if side == WATCHED:
                stack.enter_context(_watching(port_of(worker)))
        seconds = time.perf_counter() - begun
        yield Running(url, watched, NOTIFICATIONS if side in _NOTIFYING else "", database, seconds)


@contextmanager
def working(worker: WorkerProcess) -> Iterator[int]:
    """Run ``tracker-worker serve`` and yield its process id once it is ready."""
    worker.start()
    try:
        worker.wait_ready(seconds=_START_SECONDS)
        yield child(str(worker.configuration))
        worker.terminate()
    finally:
        worker.close()


@contextmanager
def _watching(port: int) -> Iterator[None]:
    """Ask for everything that the listener has, every second, as a monitoring system and an open page do."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            for path in ("/metrics", "/status", "/readyz"):
                assert fetch(port, path).status == 200

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _program(module: str, configuration: Path) -> Iterator[int]:
    command = [sys.executable, "-m", f"benchmarks.servers.{module}", str(configuration)]
    log = configuration.with_suffix(".errors")
    with log.open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said == b"ready\n", f"{module} does not come up: {log.read_text()[-4000:]}"
        yield process.pid
        process.terminate()
        process.wait(_READY_SECONDS)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
