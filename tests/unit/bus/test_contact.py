# SPDX-License-Identifier: Apache-2.0
"""What a consumer hears, and when it holds back. The clock is the test's."""

from __future__ import annotations

import pytest

from tests.support.channels import RecordingChannel
from tests.support.consumer import QUEUE, Case
from tracker_worker.bus.base import FANOUT


@pytest.fixture
def case() -> Case:
    case = Case(prefetch=4)
    case.now = 100.0
    return case


def fanout_channel(case: Case) -> RecordingChannel:
    """The channel on which the queue of fanouts is looked for: the one before the channel that consumes."""
    return case.connection.channels[-2]


def test_the_last_delivery_of_each_queue_is_kept_for_the_connection(case: Case) -> None:
    case.arrive(1)
    case.now = 107.0
    case.arrive(1)
    assert case.consumer.heard == {"host-1": 107.0}
    case.consumer.lost()
    assert case.consumer.heard == {}


def test_the_queue_of_fanouts_is_asked_for_once_until_the_answer_comes(case: Case) -> None:
    channel = fanout_channel(case)
    for _ in range(3):
        case.consumer.look_at_fanout()
        case.consumer.work()
    (name,) = channel.looked_for
    assert name.startswith("tracker_fanout_")
    assert case.consumer.heard == {}
    case.now = 103.0

    channel.find_queue()

    assert case.consumer.heard == {FANOUT: 103.0}
    case.consumer.work()
    assert channel.looked_for == [name, name]  # what was wanted meanwhile


def test_a_queue_of_fanouts_that_is_gone_is_not_heard_and_asked_for_again(case: Case) -> None:
    channel = fanout_channel(case)
    case.consumer.look_at_fanout()
    case.consumer.work()

    channel.close_by_broker(404, "NOT_FOUND - no queue")

    assert case.consumer.heard == {}
    case.consumer.look_at_fanout()
    case.consumer.work()
    assert len(channel.looked_for) == 2


def test_nothing_is_asked_without_a_connection(case: Case) -> None:
    case.consumer.lost()
    case.consumer.look_at_fanout()
    case.consumer.work()
    case.connect()
    case.consumer.work()
    assert fanout_channel(case).looked_for == [fanout_channel(case).looked_for[0]]


def test_a_consumer_with_a_full_prefetch_or_too_many_bytes_holds_back(case: Case) -> None:
    case.arrive(3)
    assert not case.consumer.holds_back()
    case.arrive(1)
    assert case.consumer.holds_back()
    case.settle(1)
    assert not case.consumer.holds_back()
    large = Case(prefetch=100, max_unsettled_bytes=10)
    large.channel.deliver(QUEUE, 1, b"x" * 11)
    large.consumer.work()
    large.consumer.read_pause()
    assert large.consumer.holds_back()
