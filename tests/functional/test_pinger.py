# SPDX-License-Identifier: Apache-2.0
"""The process that asks a host while a test is busy finds late answers and answers that never come."""

from __future__ import annotations

import signal
import time
from contextlib import closing

from tests.functional.conftest import HOST, MakeWorker
from tests.support.pinger import PATIENCE_SECONDS, Pinger, slowest
from tests.support.worker_process import NODE, WorkerProcess

HOSTS = {HOST: {"n1": NODE}}


def started(make_worker: MakeWorker) -> WorkerProcess:
    worker = make_worker(hosts=HOSTS)
    worker.start()
    worker.wait_ready()
    return worker


def test_a_worker_that_is_stopped_for_a_while_answers_late(make_worker: MakeWorker, broker_vhost: str) -> None:
    worker = started(make_worker)
    with closing(Pinger(broker_vhost, HOST)) as pinger:
        worker.signal(signal.SIGSTOP)
        time.sleep(2)
        worker.signal(signal.SIGCONT)
        time.sleep(2)  # for the next questions
        asked = pinger.stop()

    assert 1.5 < slowest(asked).seconds < PATIENCE_SECONDS
    assert {one.failure for one in asked} == {None}
    assert {one.method for one in asked} == {"oslo_rpc_server_ping", "get_node"}


def test_a_worker_that_is_killed_answers_nothing_more(make_worker: MakeWorker, broker_vhost: str) -> None:
    worker = started(make_worker)
    with closing(Pinger(broker_vhost, HOST)) as pinger:
        worker.kill()
        asked = pinger.stop()

    assert asked[-1].failure == "Timeout"
    assert asked[-1].seconds >= PATIENCE_SECONDS
