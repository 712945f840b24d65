# SPDX-License-Identifier: Apache-2.0
"""What a worker holds of its queues has a limit in bytes, whatever the prefetch is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.conformance.bus_amqp import Broker
from tests.support.bus import HOST_1
from tests.support.deadline import wait_until
from tests.support.hoarder import Hoarder

MB = 1024 * 1024
LIMIT = 8 * MB
HEARTBEAT_SECONDS = 2
OPTIONS = {
    "bus__max_unsettled_bytes": LIMIT,
    "oslo_messaging_rabbit__heartbeat_timeout_threshold": HEARTBEAT_SECONDS,
}


@pytest.fixture(params=["quorum", "classic"])
def broker(request: pytest.FixtureRequest, broker_vhost: str) -> Iterator[Broker]:
    broker = Broker(broker_vhost, bus__queue_type=request.param)
    yield broker
    broker.close()


def test_a_consumer_reads_no_more_than_its_limit_until_half_of_it_is_settled(
    broker: Broker, broker_vhost: str, queue_type_of_broker: str
) -> None:
    with closing(Hoarder(broker_vhost, HOST_1, bus__queue_type=queue_type_of_broker, **OPTIONS)) as hoarder:
        wait_until(lambda: hoarder.report()["connected"], "connected")
        idle = hoarder.report()
        for _ in range(150):
            broker.publish(HOST_1, bytes(MB))
        broker.publish(HOST_1, bytes(2 * LIMIT))  # larger than the limit, and read all the same

        wait_until(lambda: hoarder.report()["bytes"] >= LIMIT - MB, "as much as the limit allows")
        # For so long the broker cannot send its heartbeats, and must get those of the worker.
        time.sleep(4 * HEARTBEAT_SECONDS)
        full = hoarder.report()
        hoarder.settle()
        wait_until(lambda: hoarder.report()["bytes"] == 150 * MB + 2 * LIMIT, "all messages")
        done = hoarder.report()

    assert full["bytes"] <= LIMIT
    assert full["peak"] - idle["peak"] < 4 * LIMIT
    assert (done["deliveries"], done["attempts"]) == (151, idle["attempts"])
    assert done["peak"] - idle["peak"] < 10 * LIMIT


def test_messages_that_wait_for_the_start_are_no_exception(
    broker: Broker, broker_vhost: str, queue_type_of_broker: str
) -> None:
    for _ in range(150):
        broker.publish(HOST_1, bytes(MB))
    with closing(Hoarder(broker_vhost, HOST_1, bus__queue_type=queue_type_of_broker, **OPTIONS)) as hoarder:
        wait_until(lambda: hoarder.report()["bytes"] >= LIMIT - MB, "as much as the limit allows")
        time.sleep(HEARTBEAT_SECONDS)
        assert hoarder.report()["bytes"] <= LIMIT
        hoarder.settle()
        wait_until(lambda: hoarder.report()["bytes"] == 150 * MB, "all messages")


@pytest.fixture
def queue_type_of_broker(broker: Broker) -> str:
    return broker.settings.queue_type
