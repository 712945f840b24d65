# SPDX-License-Identifier: Apache-2.0
"""Clients of chaos learn that the broker had no queue for a request, and send it again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC
from tests.invariants.collect import Log, RecordingClient
from tests.invariants.record import RESULT, SENT, UNKNOWN
from tests.support import raw, stock
from tests.support.deadline import wait_until


@pytest.fixture
def careful(broker_vhost: str) -> Iterator[stock.Client]:
    with stock.client(broker_vhost, timeout=5, at_least_once=True) as client:
        yield client


@pytest.fixture
def connection(broker_vhost: str) -> Iterator[raw.RawConnection]:
    with raw.connect(broker_vhost) as connection:
        connection.channel.exchange_declare(raw.EXCHANGE, "topic", auto_delete=False)
        yield connection


def bind(connection: raw.RawConnection) -> None:
    """Make the queue of a host that has no worker."""
    connection.channel.queue_declare(HOST_TOPIC, auto_delete=False)
    connection.channel.queue_bind(HOST_TOPIC, raw.EXCHANGE, HOST_TOPIC)


def test_a_binding_is_seen_without_a_message_being_left(connection: raw.RawConnection) -> None:
    assert not connection.is_routed(HOST_TOPIC)
    bind(connection)
    assert connection.is_routed(HOST_TOPIC)
    connection.channel.exchange_delete(raw.EXCHANGE)
    assert not connection.is_routed(HOST_TOPIC)
    assert connection.count(HOST_TOPIC) == 0


def test_each_request_gets_its_own_confirm_after_one_was_returned(
    careful: stock.Client, connection: raw.RawConnection
) -> None:
    bind(connection)
    for number in range(1, 4):
        with pytest.raises(stock.RETURNED):
            careful.cast("nobody", "ping")
        careful.cast(HOST, "ping")
        assert connection.count(HOST_TOPIC) == number


def test_a_returned_cast_is_sent_again_as_a_copy_until_there_is_a_queue(
    careful: stock.Client, connection: raw.RawConnection
) -> None:
    log = Log()
    client = RecordingClient(careful, log)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(client.cast, HOST, "ping")
        wait_until(lambda: log.requests, "the first attempt is recorded")
        bind(connection)
        sent = sending.result(30)
    other = client.cast(HOST, "ping")

    assert [request.outcome for request in log.requests] == [UNKNOWN, SENT, SENT]
    assert log.requests[0].unique_id == sent.unique_id != other.unique_id
    assert [raw.unpacked(connection.take(HOST_TOPIC).body)["_unique_id"] for _ in range(2)] == [
        sent.unique_id,
        other.unique_id,
    ]


def test_a_returned_call_does_not_wait_for_its_timeout(
    careful: stock.Client, connection: raw.RawConnection, request: pytest.FixtureRequest
) -> None:
    log = Log()
    client = RecordingClient(careful, log)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(client.call, HOST, "oslo_rpc_server_ping")
        wait_until(lambda: log.requests, "the first attempt is recorded")
        worker = request.getfixturevalue("make_worker")(
            hosts={HOST: {"n1": {"vcpus": 1, "memory_mb": 1, "local_gb": 1}}}
        )
        worker.start()
        answered = sending.result(60)

    assert (answered.outcome, answered.reply) == (RESULT, "pong")
