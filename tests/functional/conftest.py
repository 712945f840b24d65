# SPDX-License-Identifier: Apache-2.0
"""Workers and clients that end with their test."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.worker_process import NODE, WorkerProcess

MakeWorker = Callable[..., WorkerProcess]

HOST = "h1"
HOST_TOPIC = f"tracker.{HOST}"


@pytest.fixture
def make_worker(tmp_path: Path, broker_vhost: str) -> Iterator[MakeWorker]:
    """Makes workers with ``WorkerProcess``'s arguments, on a virtual host of the test by default; they are not started."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> WorkerProcess:
            worker = WorkerProcess(tmp_path, **{"transport_url": broker_vhost, **arguments})
            stack.callback(worker.close)
            return worker

        yield make


@pytest.fixture
def client(broker_vhost: str) -> Iterator[stock.Client]:
    """A stock client with default options."""
    with stock.client(broker_vhost) as connected:
        yield connected


@pytest.fixture
def listener(broker_vhost: str) -> Iterator[stock.Listener]:
    """A stock listener with default options."""
    with stock.listener(broker_vhost) as listening:
        yield listening


@pytest.fixture(scope="module")
def module_worker_url(rabbitmq: RabbitMQServer) -> str:
    """The transport URL of ``module_worker``."""
    rabbitmq.ensure_running()
    return rabbitmq.virtual_host_url()


@pytest.fixture(scope="module")
def module_worker(module_worker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One worker of ``HOST`` for all tests of a module: each test shows that the worker survives it."""
    directory = tmp_path_factory.mktemp("worker")
    process = WorkerProcess(directory, transport_url=module_worker_url, hosts={HOST: {"n1": NODE}})
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.close()


@pytest.fixture
def raw_connection(module_worker: WorkerProcess, module_worker_url: str) -> Iterator[raw.RawConnection]:
    """Plain AMQP to ``module_worker``. After the test, the worker must answer and its ledger must be as at its start."""
    with raw.connect(module_worker_url) as connected:
        yield connected
        request = connected.request("get_node", {}, call=True)
        connected.publish(HOST_TOPIC, raw.packed(request))
        view = connected.reply(request["_msg_id"])["result"]
        # The inventory that the worker read at its start is generation and sequence 1.
        assert (view["generation"], view["sequence"]) == (1, 1)
        assert (view["vcpus_used"], view["running_vms"]) == (0, 0)
        assert connected.count(raw.DEAD_LETTERS) == 0
        assert module_worker.is_alive()


@pytest.fixture
def unread_pipe() -> Iterator[int]:
    """The end for writing of a pipe that is full and that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)
