# SPDX-License-Identifier: Apache-2.0
"""If a thread of the worker ends with an error, or its engine hangs, the process ends too, so that the service manager restarts
it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import stock
from tests.support.builders import instance_dict
from tests.support.deadline import wait_until
from tests.support.faulty import FAILURE, HANG, FaultyWorker
from tests.support.run import HOSTS, scheduler_run
from tests.support.worker_process import WorkerProcess


@pytest.fixture
def faulty_worker(tmp_path: Path, broker_vhost: str) -> Iterator[FaultyWorker]:
    worker = FaultyWorker(tmp_path, transport_url=broker_vhost, hosts=HOSTS)
    yield worker
    worker.close()


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ("before_commit", "the thread tracker-engine ends"),
        ("after_commit", "the thread tracker-engine ends"),
        ("after_reply", "the thread tracker-publisher ends"),
        ("after_publish", "the thread tracker-publisher ends"),
        ("after_ack", "the thread tracker-consumer ends"),
    ],
)
def test_a_worker_with_a_failed_thread_ends_and_its_successor_continues(
    faulty_worker: FaultyWorker, broker_vhost: str, point: str, says: str
) -> None:
    faulty_worker.ail(point, 4, 0)
    faulty_worker.start()
    faulty_worker.wait_ready()
    with scheduler_run(broker_vhost, f"sqlite:///{faulty_worker.database}") as working:
        with working.at_work():
            faulty_worker.arm()
            assert faulty_worker.wait() == 1
            said = faulty_worker.log()
            assert says in said
            assert f"a part of the worker failed: {FAILURE}" in said
            # The other parts stop cleanly, the log has one traceback, and its last line says why the process has ended.
            assert said.count("Traceback") == 1
            *_, stopped, last = said.splitlines()
            assert stopped.endswith(" stopped")
            assert last.endswith(f"a part of the worker failed: {FAILURE}")

            # The service manager would restart the worker.
            faulty_worker.heal()
            faulty_worker.start()
            working.wait_answers(50)

        working.prove(faulty_worker)


def test_an_engine_that_hangs_loses_its_hosts(faulty_worker: FaultyWorker, broker_vhost: str, tmp_path: Path) -> None:
    faulty_worker.configure({"tracker": {"stall_seconds": 2}})
    faulty_worker.ail("before_commit", 1, HANG)
    faulty_worker.start()
    faulty_worker.wait_ready()
    successor = WorkerProcess(tmp_path, transport_url=broker_vhost, hosts=HOSTS, name="successor")
    host = next(iter(HOSTS))
    with closing(successor), stock.client(broker_vhost) as client:
        faulty_worker.arm()
        client.cast(host, "begin_resource_claim", instance=instance_dict(1, node="n1"))

        assert faulty_worker.wait(15) == 1
        lines = [line for line in faulty_worker.log().splitlines() if "CRITICAL" in line]
        assert len(lines) == 1
        assert "the engine has stood still for 2 s at tracker_worker/unit_of_work.py:" in lines[0]

        successor.start()
        successor.wait_ready()
        wait_until(lambda: client.call(host, "get_node", node="n1")["running_vms"] == 1, "the successor does the work")


def test_threads_have_names_in_the_system(faulty_worker: FaultyWorker) -> None:
    faulty_worker.start()
    faulty_worker.wait_ready()

    assert {"tracker-engine", "tracker-consume", "tracker-publish", "tracker-timers", "tracker-watch"} <= set(
        faulty_worker.thread_names()
    )
