# SPDX-License-Identifier: Apache-2.0
"""When a consumer reads, and when it acknowledges: how much may be unsettled, and what an acknowledgement waits for."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.support.consumer import DELIVER, QUEUE, Case
from tracker_worker.bus.amqp import consumer as module


@pytest.fixture
def case(make_consumer: Callable[..., Case]) -> Case:
    return make_consumer()


class TestUnsettledBytes:
    """The limit is 1000 bytes, and a delivery without properties has 2 bytes beside its body."""

    @pytest.fixture
    def case(self, make_consumer: Callable[..., Case]) -> Case:
        return make_consumer(max_unsettled_bytes=1000)

    def reads(self, case: Case) -> bool:
        return case.consumer.read_pause() == 0.0

    def test_over_the_limit_nothing_is_read_until_half_of_it_is_settled(self, case: Case) -> None:
        for tag in range(1, 11):
            assert self.reads(case)
            case.channel.deliver(QUEUE, tag, bytes(100))
        assert not self.reads(case)
        case.consumer.work()
        for tag in range(1, 6):
            case.consumer.settle(case.received[tag - 1 : tag])
            case.consumer.work()
            assert not self.reads(case)
        case.consumer.settle(case.received[5:6])
        case.consumer.work()
        assert self.reads(case)

    def test_what_has_arrived_of_the_next_delivery_counts(self, case: Case) -> None:
        case.arrive(1)
        self.begin(case, announced=2000, arrived=900)
        assert self.reads(case)
        case.connection.on_inbound_frame((3, case.channel.channel_id, bytes(100)))
        assert not self.reads(case)
        case.consumer.settle(case.received)
        case.consumer.work()
        assert self.reads(case)

    def test_a_single_delivery_may_be_larger_than_the_limit(self, case: Case) -> None:
        self.begin(case, announced=5000, arrived=4900)
        assert self.reads(case)
        case.connection.on_inbound_frame((3, case.channel.channel_id, bytes(100)))
        assert not self.reads(case)
        case.consumer.work()
        case.consumer.settle(case.received)
        case.consumer.work()
        assert self.reads(case)

    def test_a_new_connection_begins_with_nothing(self, case: Case) -> None:
        self.begin(case, announced=2000, arrived=2000)
        assert not self.reads(case)
        case.consumer.lost()
        case.connect()
        assert self.reads(case)

    def test_headers_count(self, case: Case) -> None:
        case.channel.deliver(QUEUE, 1, b"", {"application_headers": {"k": "v" * 1000}})
        assert not self.reads(case)

    def begin(self, case: Case, *, announced: int, arrived: int) -> None:
        header = struct.pack(">HHQH", 60, 0, announced, 0)
        for kind, payload in ((1, DELIVER), (2, header), (3, bytes(arrived))):
            case.connection.on_inbound_frame((kind, case.channel.channel_id, payload))


class TestLaziness:
    """A single acknowledgement waits a moment for other work instead of waking the link."""

    @pytest.fixture
    def woken(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The times at which the link was woken, on a clock that stands still."""
        case.now = 1000.0
        woken: list[float] = []
        monkeypatch.setattr(case.consumer, "wake", lambda: woken.append(case.now))
        return woken

    def test_a_lone_acknowledgement_waits_for_other_work_for_a_limited_time(
        self, case: Case, woken: list[float]
    ) -> None:
        case.arrive(1)
        case.consumer.settle(case.received)
        assert woken == []
        assert case.consumer.due_in() == pytest.approx(module._ACK_SECONDS)
        case.arrive(1)
        assert case.channel.acks == [(1, True)]

    def test_an_acknowledgement_long_after_the_last_delivery_is_sent_immediately(
        self, case: Case, woken: list[float]
    ) -> None:
        case.arrive(1)
        case.now += module._ACK_SECONDS
        assert case.consumer.due_in() > module._ACK_SECONDS
        case.consumer.settle(case.received)
        assert woken == [case.now]

    def test_an_acknowledgement_waits_only_for_the_rest_of_the_time_after_the_last_delivery(
        self, case: Case, woken: list[float]
    ) -> None:
        case.arrive(1)
        case.now += module._ACK_SECONDS / 2
        case.consumer.settle(case.received)
        case.now += module._ACK_SECONDS
        assert woken == []
        assert case.consumer.due_in() == 0.0

    def test_acknowledgements_do_not_wait_when_the_prefetch_would_run_dry(self, case: Case, woken: list[float]) -> None:
        case.arrive(4)
        case.consumer.settle(case.received[:3])
        assert woken == []
        case.consumer.settle(case.received[3:])
        assert woken == [case.now]

    def test_acknowledgements_do_not_wait_on_hosts_with_little_prefetch(
        self, make_consumer: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = make_consumer(hosts=["host-1", "host-2"], prefetch=2)
        woken: list[str] = []
        monkeypatch.setattr(case.consumer, "wake", lambda: woken.append("now"))
        case.arrive(1)
        case.consumer.settle(case.received)
        assert woken == ["now"]
