# SPDX-License-Identifier: Apache-2.0
"""The path of one claim through the worker, counted with a profiler's hook: few functions and few files keep it readable."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml
from oslo_config import cfg

import tracker_worker
from tests.support import stock
from tests.support.builders import HOST, NODE, instance_dict
from tests.support.deadline import wait_until
from tracker_worker.conf import register_opts
from tracker_worker.service.worker import Worker

PACKAGE = str(Path(tracker_worker.__file__).parent) + os.sep
# The socket functions that the package calls to read and to write.
READS = {"recv"}
WRITES = {"write", "sendall", "send"}


class PathRecorder:
    """Records calls of the package's functions, and its reads and writes, on threads that start while the recorder is
    installed.
    """

    def __init__(self) -> None:
        self.recording = False
        self.seen: list[tuple[float, str, str, str]] = []  # time, kind, file, name

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if not self.recording or not file.startswith(PACKAGE):
            return
        if event in ("call", "return"):
            self._note(event, file, frame.f_code.co_qualname)
        elif event == "c_call":
            owner = getattr(argument, "__self__", None)
            if argument is os.write or isinstance(owner, socket.socket):
                self._note("c_call", file, argument.__name__)

    def _note(self, kind: str, file: str, name: str) -> None:
        self.seen.append((time.perf_counter(), kind, file.removeprefix(PACKAGE), name))

    def between(self, begin: int, end: int) -> list[tuple[str, str]]:
        """File and name of the called functions."""
        return [(file, name) for _, kind, file, name in self.seen[begin:end] if kind == "call"]

    def find(self, kind: str, names: set[str], *, file: str = "", after: int = 0) -> int:
        for index in range(after, len(self.seen)):
            _, what, where, name = self.seen[index]
            if what == kind and name in names and where.endswith(file):
                return index
        raise AssertionError(f"no {kind} of {names}")


@pytest.fixture
def recorder() -> Iterator[PathRecorder]:
    recorder = PathRecorder()
    threading.setprofile(recorder)
    yield recorder
    threading.setprofile(None)
    assert sys.getprofile() is None


@pytest.fixture
def worker(recorder: PathRecorder, broker_vhost: str, tmp_path: Path) -> Iterator[Worker]:
    inventory = tmp_path / "inventory.yaml"
    total = {"vcpus": 64, "memory_mb": 262144, "local_gb": 4000}
    inventory.write_text(yaml.safe_dump({"hosts": {HOST: {"nodes": {NODE: total}}}}), encoding="utf-8")
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], project="tracker-worker", default_config_files=[], default_config_dirs=[])
    conf.set_override("transport_url", broker_vhost)
    conf.set_override("listen", "", group="health")
    conf.set_override("static_file", str(inventory), group="inventory")
    for name, value in {"hosts": [HOST], "inventory_driver": "static", "state_path": str(tmp_path)}.items():
        conf.set_override(name, value, group="tracker")
    worker = Worker(conf)
    try:
        worker.start()
        wait_until(worker.ready, "the worker consumes")
        yield worker
    finally:
        worker.stop()


def cursor(state: Path) -> int:
    """The relay's cursor of the only node, as the database has it."""
    with closing(sqlite3.connect(state / "tracker.sqlite")) as database:
        (sequence,) = database.execute("SELECT sequence FROM relay_cursor").fetchone()
    return int(sequence)


def test_a_claim_passes_few_files_and_its_reply_few_functions(
    worker: Worker, recorder: PathRecorder, broker_vhost: str, tmp_path: Path
) -> None:
    paths: list[set[str]] = []
    with stock.client(broker_vhost) as client:

        def claim(number: int) -> None:
            client.call(HOST, "begin_resource_claim", instance=instance_dict(number), limits={"vcpu": 1000})

        for number in range(1, 7):
            sequence = int(client.call(HOST, "get_node")["sequence"])
            # No confirm and no cursor of an earlier claim is in flight.
            wait_until(lambda sequence=sequence: cursor(tmp_path) == sequence, "the cursor is written")
            recorder.seen.clear()
            recorder.recording = number > 3
            claim(number)
            recorder.recording = False
            if number > 3:
                paths.append(files_of(recorder))
    # With its segments and periods, the ledger has three files more than without.
    # The worker's other threads, which look after their own things now and then, may fall into one of them.
    files = min(paths, key=len)
    assert len(files) < 64, " ".join(sorted(files))


def files_of(recorder: PathRecorder) -> set[str]:
    """The files that were called between the read of the request and the write of its reply, of which the functions between
    the commit and the write are few."""
    recorder.seen.sort()
    delivered = recorder.find("c_call", READS)
    committed = recorder.find("return", {"SQLStore.commit"}, after=delivered)
    written = recorder.find("c_call", WRITES, file="stream.py", after=committed)
    functions = [name for _, name in recorder.between(committed, written)]
    assert len(functions) <= 4, functions
    return {file for file, _ in recorder.between(delivered, written)}
