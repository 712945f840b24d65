# SPDX-License-Identifier: Apache-2.0
"""Clients in a forked child: TrackerClient is answered, TrackerAPI refuses, and the parent does not notice."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from oslo_config import cfg

from tests.functional.conftest import HOST, MakeWorker
from tests.support.builders import instance_dict, uuid
from tests.support.deadline import SECONDS
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker.client.api import TrackerAPI
from tracker_worker.client.pipelined import TrackerClient
from tracker_worker.conf.opts import register_messaging_opts

CONTEXT: dict[str, Any] = {}
MANY = 200


@pytest.fixture
def worker(make_worker: MakeWorker) -> WorkerProcess:
    started = make_worker(hosts={HOST: {"n1": NODE}})
    started.start()
    started.wait_ready()
    return started


@pytest.fixture
def conf(broker_vhost: str) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([], project="scheduler", default_config_files=[], default_config_dirs=[])
    register_messaging_opts(conf)
    conf.set_override("transport_url", broker_vhost)
    conf.set_override("rpc_response_timeout", SECONDS)
    return conf


@pytest.fixture
def tracker(conf: cfg.ConfigOpts) -> Iterator[TrackerClient]:
    with TrackerClient(conf) as client:
        yield client


class Child:
    """A forked child that runs ``function``, and its result or the name and text of its exception."""

    def __init__(self, function: Callable[[], Any], *, leave: Callable[[int], Any] = os._exit) -> None:
        self._reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                try:
                    result = {"result": function()}
                except Exception as error:  # noqa: BLE001 the test looks at it
                    traceback.print_exc()
                    result = {"error": f"{type(error).__name__}: {error}"}
                os.write(writer, json.dumps(result).encode())
                code = 0
            finally:
                leave(code)
        os.close(writer)

    def result(self) -> dict[str, Any]:
        try:
            ready, _, _ = select.select([self._reader], [], [], SECONDS)
            assert ready, "the child hangs"
            return dict(json.loads(os.read(self._reader, 65536)))
        finally:
            os.close(self._reader)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def usage(tracker: TrackerAPI) -> int:
    return tracker.get_node(CONTEXT, HOST)["running_vms"]


def test_a_forked_child_is_answered_on_a_connection_of_its_own(worker: WorkerProcess, tracker: TrackerClient) -> None:
    assert tracker.begin_resource_claim(CONTEXT, HOST, instance_dict(1)) is not None

    def claim(number: int) -> str:
        begun = tracker.begin_resource_claim(CONTEXT, HOST, instance_dict(number))
        assert begun is not None
        tracker.close()
        return begun["instance_uuid"]

    # One after the other and two at a time: the ids of their requests must not meet.
    assert Child(partial(claim, 2)).result() == {"result": uuid(2)}
    together = [Child(partial(claim, number)) for number in (3, 4)]
    assert [child.result() for child in together] == [{"result": uuid(3)}, {"result": uuid(4)}]

    assert tracker.begin_resource_claim(CONTEXT, HOST, instance_dict(5)) is not None
    assert {claim["instance_uuid"] for claim in tracker.list_claims(CONTEXT, HOST)} == {
        uuid(number) for number in range(1, 6)
    }


def test_calls_of_the_parent_are_answered_while_it_forks(worker: WorkerProcess, tracker: TrackerClient) -> None:
    requests = [(instance_dict(number, vcpus=0), None) for number in range(MANY)]
    children = []
    futures = []
    for first in range(0, MANY, MANY // 4):
        futures += tracker.begin_many(CONTEXT, HOST, requests[first : first + MANY // 4])
        children.append(Child(lambda: usage(tracker) >= 0))

    assert [child.result() for child in children] == [{"result": True}] * 4
    granted = [future.result(SECONDS) for future in futures]
    assert [claim and claim["instance_uuid"] for claim in granted] == [uuid(number) for number in range(MANY)]
    assert usage(tracker) == MANY


def test_the_parent_s_connection_outlives_a_child_that_ends_as_a_program_does(
    worker: WorkerProcess, tracker: TrackerClient
) -> None:
    assert usage(tracker) == 0
    connection = tracker._pipeline._requester._connection

    def leave(code: int) -> None:
        gc.collect()
        os._exit(code)

    def collected() -> bool:
        nonlocal connection
        connection = None
        return usage(tracker) == 0

    assert Child(collected, leave=leave).result() == {"result": True}
    assert usage(tracker) == 0
    assert tracker._pipeline._requester._connection is connection
    assert connection.connected


def test_a_future_of_the_parent_does_not_hang_the_child(worker: WorkerProcess, tracker: TrackerClient) -> None:
    worker.signal(signal.SIGSTOP)
    future = tracker.begin_many(CONTEXT, HOST, [(instance_dict(1), None)])[0]

    child = Child(future.result).result()

    assert child["error"].startswith(
        "RuntimeError: begin_resource_claim on host h1 was sent before this process was forked"
    )
    worker.signal(signal.SIGCONT)
    assert future.result(SECONDS) is not None


def test_a_client_on_a_stock_transport_refuses_at_once_in_a_child(worker: WorkerProcess, conf: cfg.ConfigOpts) -> None:
    api = TrackerAPI(conf)
    assert usage(api) == 0

    def refused() -> float:
        began = time.monotonic()
        for request in (usage, lambda api: api.cast_finish_resource_claim(CONTEXT, HOST, "c")):
            with pytest.raises(RuntimeError, match="forked"):
                request(api)
        return time.monotonic() - began

    assert Child(refused).result()["result"] < 1
    assert Child(lambda: usage(TrackerAPI(conf))).result() == {"result": 0}
    assert usage(api) == 0
