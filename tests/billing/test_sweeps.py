# SPDX-License-Identifier: Apache-2.0
"""A worker that is killed while it closes periods, at each of its fault points, tells each instance once."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest

from tests.functional.test_periods import CLOSED, HOST, LENGTH, check, closed, unique
from tests.servers import RabbitMQServer
from tests.support import stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.faulty import FaultyWorker
from tests.support.worker_process import NODE


# While nothing else is decided: at the freezing, at the first or second hundred of instances, and what follows each.
@pytest.mark.behaviour("closed-periods")
@pytest.mark.parametrize(
    ("point", "passage"),
    [
        *((point, passage) for point in ("before_commit", "after_commit") for passage in (1, 2, 3)),
        ("after_publish", 1),
        ("before_cursor", 1),
    ],
)
def test_a_sweep_that_is_killed_tells_each_instance_once(
    tmp_path: Path, rabbitmq: RabbitMQServer, point: str, passage: int
) -> None:
    rabbitmq.ensure_running()
    url = rabbitmq.virtual_host_url()
    worker = FaultyWorker(
        tmp_path,
        transport_url=url,
        hosts={HOST: {"n1": NODE}},
        options={"notifications": {"usage_audit_period": f"{LENGTH.seconds}s"}},
    )
    worker.ail(point, passage)
    with closing(worker), stock.client(url) as client, stock.listener(url) as listener:
        worker.start()
        worker.wait_ready()
        prepared = client.prepare(HOST, version="1.1")
        for first in (1, 101):
            instances = [instance_dict(number, node="n1", **sized(memory_mb=1)) for number in range(first, first + 100)]
            prepared.call(stock.CONTEXT, "begin_resource_claims", claims=[{"instance": each} for each in instances])
        wait_until(lambda: len(closed(listener)) > 1, "two periods")
        worker.arm()
        assert worker.wait() == -signal.SIGKILL
        before = len(closed(listener))
        worker.heal()
        worker.start()
        wait_until(lambda: len(closed(listener)) > before + 2, "periods that were missed, and another one")
        assert worker.terminate() == 0
        told = unique(listener, "n1")
    check(told[: max(number for number, one in enumerate(told, 1) if one.event_type == CLOSED)])
    assert [one.payload["exists"] for one in told if one.event_type == CLOSED][-1] == 200
