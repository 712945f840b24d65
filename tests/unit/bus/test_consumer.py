# SPDX-License-Identifier: Apache-2.0
"""Acknowledgements: only of settled deliveries, and only on the connection of the delivery."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.consumer import DELIVER, QUEUE, Case
from tracker_worker.bus.base import FANOUT, SHARED

# Derandomized examples are the same in each run; the first example takes longer because it loads the tables of Unicode.
FUZZ = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def case(make_consumer: Callable[..., Case]) -> Case:
    return make_consumer()


def test_one_acknowledgement_covers_consecutive_settled_deliveries(case: Case) -> None:
    case.arrive(10)
    assert case.settle(3, 1, 2) == [(3, True)]
    assert case.settle(*range(4, 11)) == [(10, True)]


def test_settled_deliveries_after_a_gap_are_acknowledged_one_by_one(case: Case) -> None:
    case.arrive(6)
    assert case.settle(6, 4) == [(4, False), (6, False)]
    assert case.settle(1, 2) == [(2, True)]
    assert case.settle(3) == [(3, True)]
    assert case.settle(5) == [(5, True)]


def test_a_delivery_that_is_not_passed_on_yet_is_a_gap(case: Case) -> None:
    case.arrive(2)
    case.channel.deliver(QUEUE, 3, b"3")
    assert case.settle(2) == [(2, False)]
    assert [delivery.body for delivery in case.received] == [b"1", b"2", b"3"]


class TestLostConnection:
    def test_what_arrived_and_was_not_handed_over_is_dropped(self, case: Case) -> None:
        case.arrive(2)
        case.channel.deliver(QUEUE, 3, b"3")
        case.consumer.lost()
        case.consumer.work()
        assert [delivery.body for delivery in case.received] == [b"1", b"2"]

    def test_it_is_reported_once_and_not_where_there_was_no_connection(self, case: Case) -> None:
        case.consumer.lost()
        case.consumer.lost()
        assert case.losses == 1
        case.connect()
        case.consumer.lost()
        assert case.losses == 2

    def test_only_deliveries_of_the_open_connection_are_current(self, case: Case) -> None:
        case.arrive(1)
        (old,) = case.received
        assert case.consumer.is_current(old)
        case.consumer.lost()
        assert not case.consumer.is_current(old)
        case.connect()
        case.arrive(1)
        assert [case.consumer.is_current(delivery) for delivery in case.received] == [False, True]

    def test_nothing_of_a_lost_connection_is_kept(self, case: Case) -> None:
        """A worker whose listener drops what it has not decided holds each of 256 messages of 38 KB once."""
        body_bytes, count = 38_000, 256

        def redelivered() -> int:
            case.connect()
            for tag in range(1, count + 1):
                case.channel.deliver(QUEUE, tag, bytes(body_bytes))
            case.consumer.work()
            case.channel.deliver(QUEUE, count + 1, bytes(body_bytes))  # arrived, and not handed over
            case.connection.on_inbound_frame((1, case.channel.channel_id, DELIVER))  # not arrived whole
            held = tracemalloc.get_traced_memory()[0]
            case.consumer.settle(case.received[: count // 2])
            case.consumer.lost()
            case.consumer.settle(case.received[count // 2 :])
            case.received.clear()
            return held

        redelivered()
        tracemalloc.start()
        try:
            held = [redelivered() for _ in range(5)]
            left = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert left < 1_000_000
        assert max(held) < 1.2 * body_bytes * count


def test_nothing_is_acknowledged_twice(case: Case) -> None:
    case.arrive(3)
    assert case.settle(1, 1) == [(1, True)]
    assert case.settle(1) == []
    assert case.settle(2, 1) == [(2, True)]


def test_deliveries_of_a_lost_connection_are_not_acknowledged_on_the_next(case: Case) -> None:
    case.arrive(3)
    old = list(case.received)
    case.consumer.settle(old[:1])
    case.consumer.lost()
    case.consumer.settle(old[1:2])
    channel = case.connect()
    case.arrive(3)
    case.consumer.settle(old)
    case.consumer.work()
    assert channel.acks == []
    assert case.settle(1, 2, 3) == [(3, True)]


def test_a_consumer_does_not_acknowledge_the_deliveries_of_another_consumer(
    case: Case, make_consumer: Callable[..., Case]
) -> None:
    case.arrive(1)
    other = make_consumer()
    other.arrive(1)
    other.consumer.settle(case.received)
    other.consumer.work()
    assert other.channel.acks == []


def test_deliveries_during_a_pause_are_neither_passed_on_nor_acknowledged(case: Case) -> None:
    case.arrive(2)
    case.consumer.pause()
    case.arrive(2)
    assert len(case.received) == 2
    case.consumer.settle(case.received)
    case.consumer.work()
    assert case.channel.acks == [(2, True)]


def test_deliveries_that_arrive_together_are_passed_on_together(case: Case) -> None:
    case.arrive(1)
    for tag in range(2, 6):
        case.channel.deliver(QUEUE, tag, b"")
    case.consumer.work()
    case.consumer.work()
    assert case.batches == [1, 4]


def test_a_connection_is_open_when_the_broker_has_answered_that_it_delivers(case: Case) -> None:
    """The answer is not waited for: with it, the library would read every delivery that comes before it."""
    case.consumer._open.set()
    assert not case.consumer.is_open()
    case.arrive(1)
    case.channel.answer()
    assert case.consumer.is_open()
    assert case.consumer.serves_all()
    assert len(case.connection.left) == len(case.channel.qos)  # the library's other state is its own
    case.connect()
    assert not case.consumer.is_open()


@pytest.mark.parametrize(("prefetch", "hosts", "share"), [(256, 1, 256), (256, 3, 85), (8, 2, 4), (2, 5, 1)])
def test_the_prefetch_is_divided_and_each_host_has_at_least_one(
    make_consumer: Callable[..., Case], prefetch: int, hosts: int, share: int
) -> None:
    names = [f"host-{number}" for number in range(hosts)]
    case = make_consumer(hosts=names, prefetch=prefetch)
    limits = case.channel.limits
    assert [limits[f"tracker.{name}"] for name in names] == [share] * hosts
    assert {a_global for _, _, a_global in case.channel.qos} == {False}  # quorum queues refuse a global prefetch


def test_each_connection_has_a_fanout_queue_of_its_own(case: Case) -> None:
    before = set(case.channel.consumers)
    case.connect()
    (first,), (second,) = before - set(case.channel.consumers), set(case.channel.consumers) - before
    assert first.startswith("tracker_fanout_")
    assert second.startswith("tracker_fanout_")


def test_a_delivery_has_the_source_of_its_queue(make_consumer: Callable[..., Case]) -> None:
    case = make_consumer(hosts=["host-1", "host-2"])
    fanout = next(queue for queue in case.channel.consumers if queue.startswith("tracker_fanout_"))
    for queue in ("tracker.host-2", "tracker.host-1", "tracker", fanout):
        case.arrive(1, queue)
    assert [delivery.source for delivery in case.received] == ["host-2", "host-1", SHARED, FANOUT]


@pytest.mark.parametrize(
    ("expiration", "seconds"), [("60000", 60.0), ("1", 0.001), ("0", 0.0), ("soon", None), ("", None), (None, None)]
)
def test_the_deadline_follows_from_the_expiration(case: Case, expiration: str | None, seconds: float | None) -> None:
    case.now = 1000.0
    properties = {} if expiration is None else {"expiration": expiration}
    case.channel.deliver(QUEUE, 1, b"", properties)
    case.consumer.work()
    assert case.received[0].deadline == (None if seconds is None else 1000.0 + seconds)


def test_a_delivery_keeps_bytes_headers_and_properties_of_any_message(case: Case) -> None:
    headers = {"compression": "application/x-bz2"}
    properties = {"content_type": "text/plain", "message_id": "m", "application_headers": headers}
    case.channel.deliver(QUEUE, 1, b"\xff", properties)
    case.consumer.work()
    (delivery,) = case.received
    assert (delivery.body, delivery.content_type, delivery.headers) == (b"\xff", "text/plain", headers)
    assert delivery.properties == {"content_type": "text/plain", "message_id": "m"}
    assert (delivery.exchange, delivery.routing_key) == ("openstack", QUEUE)
    assert not case.channel.auto_decode


@FUZZ
@given(st.permutations(range(1, 13)), st.lists(st.integers(0, 12), max_size=6), st.integers(0, 12))
def test_exactly_the_settled_deliveries_are_acknowledged_in_any_order(
    order: list[int], cuts: list[int], settled: int
) -> None:
    case = Case()
    try:
        case.arrive(12)
        order = order[:settled]
        bounds = sorted({0, *(cut for cut in cuts if cut < settled), settled})
        done: set[int] = set()
        for first, last in itertools.pairwise(bounds):
            done.update(order[first:last])
            case.settle(*order[first:last])
            assert acknowledged(case.channel.acks) == done
    finally:
        case.consumer.stop(0)


def acknowledged(acks: Sequence[tuple[int, bool]]) -> set[int]:
    """The acknowledged tags, as the broker counts them. An unknown tag is an error that closes the channel."""
    open_tags = list(range(1, 13))
    for tag, multiple in acks:
        assert tag in open_tags
        open_tags = [other for other in open_tags if other != tag and not (multiple and other < tag)]
    return set(range(1, 13)) - set(open_tags)
