# SPDX-License-Identifier: Apache-2.0
"""A queue that refuses its messages, or that is missing, holds up only its own messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.publishing import QUEUE, RETRY, WINDOW, Case, stopped
from tracker_worker.bus.amqp import outgoing, unclaimed
from tracker_worker.bus.amqp.outgoing import FOREVER

OTHER = "metering.info"


@pytest.fixture
def case() -> Iterator[Case]:
    with stopped() as case:
        yield case


def notify(case: Case, *bodies: bytes, key: str = QUEUE) -> None:
    case.submit(*bodies, retry_before=FOREVER, key=key)


def tag(case: Case) -> int:
    """The tag of the last message, if the connection has had one channel."""
    return len(case.published())


def new(case: Case, since: int) -> list[bytes]:
    return case.published()[since:]


class TestAFullQueue:
    def test_one_message_probes_it_and_the_others_wait_in_order(self, case: Case) -> None:
        notify(case, b"1", b"2", b"3")
        case.nack(2, multiple=True)
        notify(case, b"4")
        case.later(RETRY)
        assert case.published() == [b"1", b"2", b"3"], "the answer for 3 is unknown, and 3 goes before 4"
        case.nack(3)
        case.later(RETRY)
        assert new(case, 3) == [b"1"]
        case.ack(4)
        case.publisher.work()
        assert new(case, 4) == [b"2", b"3"], "a queue with room for one has perhaps room for two"
        case.ack(6, multiple=True)
        case.publisher.work()
        assert new(case, 6) == [b"4"]
        case.ack(7)
        assert case.done == [(b"1", True), (b"2", True), (b"3", True), (b"4", True)]
        assert case.publisher.waiting_bytes() == 0

    def test_what_is_not_tried_again_makes_room_for_what_waits(self, case: Case) -> None:
        """Seed 8300018 of the simulation: heartbeats filled the small window of a reply queue that had been full, and were
        refused. Nothing else was on the wire whose answer could have gone on."""
        notify(case, b"1")
        case.nack(1)
        case.later(RETRY)
        case.ack(2)
        for beat in (b"beat 1", b"beat 2"):
            case.submit(beat, retry_before=None, key=QUEUE)
        notify(case, b"2")
        assert new(case, 2) == [b"beat 1", b"beat 2"]
        case.nack(4, multiple=True)
        case.publisher.work()
        assert new(case, 4) == [b"2"]

    def test_other_queues_are_served_meanwhile(self, case: Case) -> None:
        notify(case, *(b"%d" % number for number in range(3000)))
        case.nack(WINDOW, multiple=True)
        for number in range(3000):
            notify(case, b"other %d" % number, key=OTHER)
            case.ack(tag(case), multiple=True)
        assert [body for body, _ in case.done] == [b"other %d" % number for number in range(3000)]

    def test_a_queue_that_confirms_nothing_uses_up_only_its_own_window(self, case: Case) -> None:
        notify(case, *(b"%d" % number for number in range(WINDOW + 5)))
        notify(case, b"other", key=OTHER)
        assert new(case, WINDOW) == [b"other"]

    def test_its_window_has_a_limit_in_bytes(self, case: Case) -> None:
        megabyte = b"x" * (1 << 20)
        notify(case, *[megabyte] * 8)
        assert tag(case) == 4
        case.ack(1)
        case.publisher.work()
        assert tag(case) == 5

    def test_the_pause_between_two_probes_doubles_up_to_five_seconds(self, case: Case) -> None:
        notify(case, b"1")
        pauses = []
        for attempt in range(1, 8):
            case.nack(case.tag())
            case.publisher.work()
            pauses.append(case.publisher.due_in())
            case.later(pauses[-1] - 0.001)
            assert tag(case) == attempt
            case.later(0.001)
            assert tag(case) == attempt + 1
        assert pauses == pytest.approx([0.5, 1, 2, 4, 5, 5, 5])

    def test_one_warning_says_how_many_messages_wait_and_one_line_that_it_takes_messages_again(
        self, case: Case, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        notify(case, b"1", b"2")
        case.nack(2, multiple=True)
        notify(case, b"34")
        case.later(RETRY)
        case.nack(case.tag())
        for _ in range(2):
            case.later(5)
            case.nack(case.tag())
        case.later(5)
        case.ack(case.tag())
        lines = [record.getMessage() for record in caplog.records if QUEUE in record.getMessage()]
        assert lines == [
            f"{QUEUE} refuses messages: it is full, or has failed; 3 messages (4 bytes) wait",
            f"{QUEUE} takes messages again; 2 messages (3 bytes) waited",
        ]

    def test_a_reply_that_is_refused_gives_its_place_in_the_prefetch_back(self, case: Case) -> None:
        case.submit(b"1", retry_before=case.now + 60)
        case.nack(1)
        assert case.done == [(b"1", False)]
        case.later(RETRY)
        case.ack(2)
        assert case.published() == [b"1", b"1"]
        assert case.publisher.waiting_bytes() == 0


class TestAMissingQueue:
    def test_our_own_queue_is_declared_again_for_each_probe_and_first_immediately(self, case: Case) -> None:
        notify(case, b"1", b"2")
        for attempt, pause in enumerate((0, 1, 2, 4), 1):
            case.give_back(b"1", QUEUE, "openstack")
            if attempt == 1:
                case.give_back(b"2", QUEUE, "openstack")
                case.ack(2, multiple=True)
            else:
                case.ack(attempt + 1)
            before = case.connection.declared().count(QUEUE)
            assert case.publisher.due_in() == pytest.approx(pause)
            case.later(pause)
            assert case.connection.declared().count(QUEUE) == before + 1
        assert case.published() == [b"1", b"2", *[b"1"] * 4]
        case.ack(tag(case))
        case.publisher.work()
        case.ack(tag(case))
        assert case.done == [(b"1", True), (b"2", True)]

    def test_what_waits_for_it_is_published_in_order_on_the_next_connection(self, case: Case) -> None:
        notify(case, b"1", b"2")
        case.give_back(b"1", QUEUE, "openstack")
        case.ack(1)
        notify(case, b"3")
        case.lose()
        case.connect()
        case.publisher.work()
        for attempt in range(1, 3):
            case.ack(attempt)
            case.publisher.work()
        assert case.published() == [b"1", b"2", b"3"]


class TestRepliesThatNobodyTakes:
    def test_one_reply_probes_the_queue_and_all_give_their_places_back(self, case: Case) -> None:
        case.submit(b"1", b"2", retry_before=case.now + 60)
        case.give_back(b"1")
        case.give_back(b"2")
        case.ack(2, multiple=True)
        case.submit(b"3", retry_before=case.now + 60)
        assert case.done == [(b"1", False), (b"2", False), (b"3", False)]
        for attempt in range(3, 13):
            case.later(1)
            case.give_back(b"1")
            case.ack(attempt)
        assert new(case, 2) == [b"1"] * 10
        case.submit(b"living", key="reply_2")
        assert new(case, 12) == [b"living"]

    def test_they_are_published_in_order_when_the_client_is_back(self, case: Case) -> None:
        case.submit(b"1", b"2", b"3", retry_before=case.now + 60)
        for body in (b"1", b"2", b"3"):
            case.give_back(body)
        case.ack(3, multiple=True)
        case.later(RETRY)
        for attempt in (4, 5, 6):
            case.ack(attempt)
            case.publisher.work()
        assert new(case, 3) == [b"1", b"2", b"3"]
        assert case.publisher.waiting_bytes() == 0

    def test_they_are_dropped_after_their_time(self, case: Case) -> None:
        case.submit(b"1", b"2", retry_before=case.now + 2)
        case.give_back(b"1")
        case.ack(2, multiple=True)
        case.submit(b"3", retry_before=case.now + 2)
        case.later(RETRY)
        case.give_back(b"1")
        case.ack(3)
        case.later(2)
        case.later(2)
        assert case.published() == [b"1", b"2", b"1"]
        assert case.publisher.waiting_bytes() == 0
        assert case.publisher.due_in() >= RETRY

    def test_a_reply_whose_deadline_is_over_is_not_sent(self, case: Case) -> None:
        for body, seconds in ((b"1", 100), (b"2", 1), (b"3", 100)):
            message = case.message(body)
            message.deadline = case.now + seconds
            case.publisher.submit(message)
        case.publisher.work()
        for body in (b"1", b"2", b"3"):
            case.give_back(body)
        case.ack(3, multiple=True)
        case.later(2)
        case.ack(4)
        case.publisher.work()
        assert new(case, 3) == [b"1", b"3"]

    @pytest.mark.parametrize("clients", [1, 300])
    def test_their_number_is_limited_and_the_oldest_are_dropped(
        self, case: Case, clients: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        bury(case, clients, b"x", unclaimed.MOST_ANSWERS + 1000)
        assert case.publisher.waiting_bytes() <= unclaimed.MOST_ANSWERS + clients
        assert len(case.done) == unclaimed.MOST_ANSWERS + 1000
        case.later(60)
        (line,) = [record.getMessage() for record in caplog.records if "were dropped" in record.getMessage()][-1:]
        assert line.startswith("1000 answers were dropped")

    def test_their_bytes_are_limited(self, case: Case) -> None:
        bury(case, 3, b"x" * (1 << 20), 100)
        assert case.publisher.waiting_bytes() <= unclaimed.MOST_BYTES + 3 * outgoing.WINDOW_BYTES

    def test_many_missing_queues_are_probed_at_a_limited_rate(self, case: Case) -> None:
        bury(case, 2000, b"x", 2000)
        for step in range(600):
            case.later(0.1)
            if step == 200:
                before = tag(case)
            _give_all_back(case)
        assert (tag(case) - before) / 40 < 250

    def test_a_new_connection_begins_with_the_living(self, case: Case) -> None:
        bury(case, 10, b"x", 1000)
        case.lose()
        case.submit(b"living", key="reply_living")
        case.connect()
        case.publisher.work()
        assert case.published()[0] == b"living"
        assert len(case.published()) <= 11


def bury(case: Case, clients: int, body: bytes, count: int) -> None:
    """Submit so many replies to clients that are gone."""
    give_all_back = partial(_give_all_back, case)
    for number in range(count):
        case.submit(body, retry_before=case.now + 60, key=f"reply_{number % clients}")
        give_all_back()
    give_all_back()


def _give_all_back(case: Case) -> None:
    if case.publisher._confirms.pending:
        for message in list(case.publisher._confirms.pending.values()):
            case.give_back(message.body, message.routing_key)
        case.ack(tag(case), multiple=True)
