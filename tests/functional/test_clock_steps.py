# SPDX-License-Identifier: Apache-2.0
"""A step of the clock, forward or back, ends no claim, and the times of a node's events never fall."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from tests.functional.conftest import HOST
from tests.support import stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker.conf import register_opts
from tracker_worker.service.worker import Worker

SECOND = 1_000_000
HOUR = 3600 * SECOND
YEAR = 365 * 24 * HOUR


class SteppedClock:
    """The time of day in microseconds, ``ahead`` of the machine's."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return time.time_ns() // 1000 + self.ahead


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def worker(clock: SteppedClock, broker_vhost: str, tmp_path: Path) -> Iterator[Worker]:
    """A worker in this process, which is not started yet."""
    options = {"tracker": {"audit_interval_seconds": 1, "expired_claims": "release"}}
    described = WorkerProcess(tmp_path, transport_url=broker_vhost, hosts={HOST: {"n1": NODE}}, options=options)
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([f"--config-file={described.configuration}"], project="tracker-worker", default_config_dirs=[])
    worker = Worker(conf, clock=clock)
    yield worker
    worker.stop()


def begin(client: stock.Client, number: int) -> None:
    instance = instance_dict(number, **sized(vcpus=1, memory_mb=64, disk_gb=1))
    client.call(HOST, "begin_resource_claim", instance=instance, timeout=600)


def steps(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the worker has said of steps of the clock."""
    return [
        one.getMessage() for one in caplog.records if one.levelno == logging.WARNING and "clock" in one.getMessage()
    ]


def test_a_clock_that_is_set_right_after_the_start_and_then_back_ends_no_claim_and_shortens_no_charge(
    worker: Worker,
    clock: SteppedClock,
    client: stock.Client,
    listener: stock.Listener,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock.ahead = -26 * YEAR  # a machine whose clock starts long ago
    worker.start()
    wait_until(worker.ready, "the worker consumes")
    begin(client, 1)

    clock.ahead = 0  # the time service sets it
    wait_until(lambda: client.call(HOST, "update_available_resource") and steps(caplog), "the step is noticed")
    for _ in range(3):
        client.call(HOST, "update_available_resource")
    assert client.call(HOST, "get_node")["running_vms"] == 1
    begin(client, 2)

    clock.ahead = -HOUR
    client.call(HOST, "update_usage", instance={"uuid": uuid(2), "vm_state": "deleted"})
    wait_until(lambda: client.call(HOST, "update_available_resource") and len(steps(caplog)) > 1, "it is noticed too")

    claims = client.call(HOST, "list_claims")
    assert [claim["instance_uuid"] for claim in claims] == [uuid(1)]
    heard = listener.wait_for(HOST, "n1", client.call(HOST, "get_node")["sequence"])
    kinds = ["node.updated", "claim.begun", "claim.begun", "usage.released"]
    assert [one.event_type.removeprefix("tracker.") for one in heard] == kinds
    times = [one.payload["occurred_at"] for one in heard]
    assert all(before <= after for before, after in itertools.pairwise(times))
    forward, back = steps(caplog)
    assert str(26 * YEAR // SECOND)[:4] in forward.replace(",", "")
    assert "3600" in back.replace(",", "") or "3599" in back.replace(",", "")
