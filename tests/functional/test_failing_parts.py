# SPDX-License-Identifier: Apache-2.0
"""If a thread of the worker ends with an error, the process ends too, so that the service manager restarts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty import FAILURE, FaultyWorker
from tests.support.run import HOSTS, scheduler_run


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
        ("after_reply", "tracker-publisher: the connection's thread ends"),
        ("after_publish", "tracker-publisher: the connection's thread ends"),
        ("after_ack", "tracker-consumer: the connection's thread ends"),
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
            # The other parts stop cleanly and the log has one traceback.
            assert said.count("Traceback") == 1
            assert said.rstrip().endswith("stopped")

            # The service manager would restart the worker.
            faulty_worker.heal()
            faulty_worker.start()
            working.wait_answers(50)

        working.prove(faulty_worker)
