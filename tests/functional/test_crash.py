# SPDX-License-Identifier: Apache-2.0
"""What ``kill -9`` costs: nothing."""

from __future__ import annotations

import pytest

from tests.functional import load, stock
from tests.functional.conftest import MakeWorker


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_nothing_is_lost_done_twice_or_out_of_order_when_the_worker_is_killed(
    make_worker: MakeWorker, client: stock.Client, ear: stock.Ear, queue_type: str
) -> None:
    worker = make_worker(hosts=load.HOSTS, options={"bus": {"queue_type": queue_type}})
    worker.start()
    worker.wait_ready()
    flight = load.Load(client)
    flight.prepare()

    with flight.running():
        for answered in (100, 300):
            flight.wait_answered(answered)
            worker.kill()
            worker.start()

    flight.check(ear)
