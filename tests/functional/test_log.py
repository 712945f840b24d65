# SPDX-License-Identifier: Apache-2.0
"""The log of a worker: on stderr, one line for each decision, and never a reason to wait."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

from tests.functional.conftest import HOST, HOST_TOPIC, MakeWorker
from tests.support import raw, stock
from tests.support.builders import instance_dict, sized
from tests.support.health import systemd
from tests.support.log_pipe import LogPipe
from tests.support.worker_process import NODE

HOSTS = {HOST: {"n1": NODE}}


def test_the_log_is_on_stderr_and_each_decision_is_a_line(
    make_worker: MakeWorker, client: stock.Client, broker_vhost: str, tmp_path: Path
) -> None:
    worker = make_worker(hosts=HOSTS)
    out = tmp_path / "out"
    with out.open("wb") as stdout:
        worker.start(stdout=stdout.fileno())
    worker.wait_ready()
    # The requests of one batch: they arrive while the worker is stopped.
    worker.signal(signal.SIGSTOP)
    with raw.connect(broker_vhost) as connection:
        for number in range(30):
            client.cast(HOST, "begin_resource_claim", instance=instance_dict(number))
        assert connection.count(HOST_TOPIC) == 0
    worker.signal(signal.SIGCONT)
    worker.wait_for_log(" tracker_worker.decisions [-] ClaimBegun instance=", times=30)

    assert worker.terminate() == 0
    assert out.read_bytes() == b""
    assert worker.plain_lines() == []
    assert "figures={'VCPU': " in worker.log()


def test_a_log_that_nobody_reads_holds_up_neither_requests_nor_the_stop(
    make_worker: MakeWorker, client: stock.Client, tmp_path: Path, unread_pipe: int
) -> None:
    with systemd(tmp_path) as manager:
        worker = make_worker(hosts=HOSTS, environment=manager.environment)
        worker.start(stderr=unread_pipe)
        manager.wait_for("READY=1")

    for number in range(20):
        client.call(HOST, "begin_resource_claim", instance=instance_dict(number))
    worker.signal(signal.SIGTERM)

    assert worker.wait(10) == 0


def test_a_log_that_is_read_again_lacks_nothing(make_worker: MakeWorker, client: stock.Client) -> None:
    worker = make_worker(hosts=HOSTS)
    pipe = LogPipe(worker.log_path)
    pipe.start(worker)
    worker.wait_ready()
    numbers = itertools.count()

    def claim() -> None:
        client.call(HOST, "begin_resource_claim", instance=instance_dict(next(numbers), **sized(vcpus=1)))

    pipe.hold(claim)
    for _ in range(20):
        claim()
    begun = next(numbers)
    assert worker.log().count(" ClaimBegun ") < begun
    pipe.release()

    worker.wait_for_log(" ClaimBegun ", times=begun)
    assert worker.terminate() == 0
