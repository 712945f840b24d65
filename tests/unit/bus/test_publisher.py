# SPDX-License-Identifier: Apache-2.0
"""The publisher's reactions to the broker's answers: confirmed, refused, returned, or no answer because of a lost
connection.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.publishing import PLAIN, QUEUE, RETRY, WINDOW, Case, stopped
from tracker_worker.bus.amqp.outgoing import FOREVER, Message


@pytest.fixture
def case() -> Iterator[Case]:
    with stopped() as case:
        yield case


def test_confirms_that_are_read_together_are_reported_together(case: Case) -> None:
    case.submit(b"1", b"2", b"3")
    case.ack(1)
    case.ack(2)
    assert case.told == 0
    case.publisher.work()
    assert case.told == 2
    case.ack(3)
    case.lose()
    assert case.told == 3


def test_messages_are_published_in_order_without_waiting_for_confirms(case: Case) -> None:
    case.submit(b"1", b"2")
    case.submit(b"3")
    assert case.published() == [b"1", b"2", b"3"]
    assert case.done == []
    assert {message.mandatory for message in case.channel.published} == {True}


def test_a_single_confirm_is_for_one_message(case: Case) -> None:
    case.submit(b"1", b"2", b"3")
    case.ack(2)
    assert case.done == [(b"2", True)]
    case.ack(3)
    case.ack(1)
    assert case.done == [(b"2", True), (b"3", True), (b"1", True)]


def test_a_multiple_confirm_is_for_all_messages_up_to_it_in_order(case: Case) -> None:
    case.submit(b"1", b"2", b"3", b"4")
    case.ack(2)
    case.ack(3, multiple=True)
    assert case.done == [(b"2", True), (b"1", True), (b"3", True)]
    assert not case.publisher.idle()
    case.ack(4, multiple=True)
    assert case.publisher.idle()


def test_messages_beyond_the_window_wait_for_confirms(case: Case) -> None:
    case.submit(*(b"%d" % number for number in range(WINDOW + 10)))
    assert len(case.published()) == WINDOW
    case.ack(4, multiple=True)
    case.publisher.work()
    assert len(case.published()) == WINDOW + 4
    case.ack(WINDOW + 4, multiple=True)
    case.publisher.work()
    assert case.published() == [b"%d" % number for number in range(WINDOW + 10)]


def test_a_returned_message_that_is_routed_later_is_not_reported_again(case: Case) -> None:
    case.submit(b"1", retry_before=case.now + 60)
    case.give_back(b"1")
    case.ack(1)
    case.later(RETRY)
    case.ack(2)
    case.later(RETRY)
    assert case.done == [(b"1", False)]
    assert case.published() == [b"1", b"1"]


def test_a_return_is_matched_by_body_and_routing_key(case: Case) -> None:
    for body, key in ((b"1", "reply_1"), (b"1", "reply_2"), (b"2", "reply_1"), (b"1", "reply_1")):
        case.publisher.submit(case.message(body, key=key))
    case.publisher.work()
    case.give_back(b"1", "reply_2")
    case.give_back(b"1")
    case.ack(4, multiple=True)
    assert case.done == [(b"1", False), (b"1", False), (b"2", True), (b"1", True)]
    assert case.channel.auto_decode is False


def test_after_a_lost_connection_unconfirmed_messages_are_published_first_in_order(case: Case) -> None:
    case.submit(b"1", b"2", b"3", b"4")
    case.ack(2)
    case.lose()
    case.publisher.submit(case.message(b"5"))
    case.connect()
    case.publisher.work()
    assert case.published() == [b"1", b"3", b"4", b"5"]
    case.ack(4, multiple=True)
    assert case.done == [(b"2", True), (b"1", True), (b"3", True), (b"4", True), (b"5", True)]


def test_a_return_without_its_confirm_is_dropped_with_the_connection(case: Case) -> None:
    case.submit(b"1", b"2")
    case.give_back(b"1")
    case.lose()
    case.connect()
    case.publisher.work()
    case.ack(2, multiple=True)
    assert case.done == [(b"1", True), (b"2", True)]


def test_a_message_that_is_not_tried_again_is_reported_when_it_is_returned(case: Case) -> None:
    case.submit(b"1", b"2", retry_before=None)
    case.give_back(b"1")
    assert case.done == []
    case.ack(2, multiple=True)
    assert case.done == [(b"1", False), (b"2", True)]
    case.later(RETRY)
    assert case.published() == [b"1", b"2"]
    assert case.publisher.waiting_bytes() == 0


def test_a_message_that_is_not_tried_again_counts_as_routed_when_its_queue_refuses_it(case: Case) -> None:
    case.submit(b"1", retry_before=None)
    case.nack(1)
    assert case.done == [(b"1", True)]
    case.later(RETRY)
    assert case.published() == [b"1"]


def test_a_message_that_is_not_tried_again_does_not_outlive_its_connection(case: Case) -> None:
    case.submit(b"1", retry_before=None)
    case.lose()
    case.submit(b"2", retry_before=None)
    case.connect()
    case.publisher.work()
    assert case.published() == []
    assert case.done == []
    assert case.publisher.waiting_bytes() == 0


def test_a_lost_connection_loses_no_message_that_is_submitted_at_the_same_time(case: Case) -> None:
    """Other threads submit messages while unconfirmed messages are put back."""
    case.submit(b"1", b"2")
    case.publisher.submit(case.message(b"3"))
    case.lose()
    case.publisher.submit(case.message(b"4"))
    case.connect()
    case.publisher.work()
    assert case.published() == [b"1", b"2", b"3", b"4"]


def test_a_heartbeat_is_not_mandatory(case: Case) -> None:
    beat = Message(exchange="", routing_key="reply_1", body=b"beat", properties=PLAIN, mandatory=False)
    case.publisher.submit(beat)
    case.publisher.work()
    case.ack(1)
    assert case.channel.published[0].mandatory is False
    assert case.publisher.idle()


def test_a_message_whose_time_is_over_is_not_published(case: Case) -> None:
    for body, seconds in ((b"1", 5), (b"2", 10)):
        message = case.message(body)
        message.deadline = case.now + seconds
        case.publisher.submit(message)
    case.later(5)
    assert case.published() == [b"2"]
    assert case.done == [(b"1", False)]


def test_a_message_that_stays_unconfirmed_is_reported_when_its_time_is_over(case: Case) -> None:
    """A reply queue without a majority of its nodes confirms nothing: its calls must not hold their places for ever."""
    case.submit(b"1", retry_before=case.now + 60)
    case.later(30)
    assert case.done == []
    case.later(30)
    assert case.done == [(b"1", False)]
    case.ack(1)
    assert case.done == [(b"1", False)]


def test_a_queue_that_refuses_again_and_again_is_tried_on_a_new_channel(case: Case) -> None:
    case.submit(b"1", b"2", key=QUEUE)
    case.submit(b"other")
    case.nack(1)
    case.nack(2)
    case.later(RETRY)
    case.nack(4)  # the probe
    old = case.channel
    case.later(4 * RETRY)
    assert case.channel is old  # waits for the answer to "other"
    case.ack(3)
    case.publisher.work()
    assert case.channel is not old
    assert case.done == [(b"1", False), (b"2", False), (b"other", True)]
    case.publisher.work()
    case.ack(1)
    case.publisher.work()
    assert case.published() == [b"1", b"2", b"other", b"1", b"1", b"2"]


def test_a_new_channel_does_not_wait_for_an_answer_for_ever(case: Case) -> None:
    case.submit(b"1", key=QUEUE)
    case.submit(b"other")
    case.nack(1)
    case.later(RETRY)
    case.nack(3)
    case.later(0)
    old = case.channel
    case.later(0.9)
    assert case.channel is old
    case.later(0.1)
    case.publisher.work()
    assert sorted(message.body for message in case.channel.published) == [b"1", b"other"]


def test_a_queue_that_stays_full_gets_ever_fewer_new_channels(case: Case) -> None:
    case.submit(b"1", retry_before=FOREVER, key=QUEUE)
    case.nack(1)
    first = len(case.connection.channels)
    for _ in range(300):
        case.later(6)
        case.nack(case.tag())
        case.publisher.work()
    assert len(case.published()) == 301
    assert len(case.connection.channels) - first == 8  # after 2, 4, ... 256 refusals


@pytest.mark.parametrize("name", ["n" * 300, "\ud800"])
def test_a_name_that_cannot_be_written_fails_its_message_only(case: Case, name: str) -> None:
    case.submit(b"1", key=name)
    case.submit(b"2")
    assert case.published() == [b"2"]
    case.ack(1)
    assert case.publisher.idle()
    assert case.publisher.waiting_bytes() == 0


def test_properties_that_do_not_fit_into_a_frame_are_made_shorter_for_this_connection(case: Case) -> None:
    long = case.message(b"1")
    long.properties = b"p" * 5000
    long.fitted = lambda most_bytes: b"q" * most_bytes
    case.connection.frame_max = 4096
    case.publisher.submit(long, case.message(b"2"))
    case.publisher.work()
    assert [len(message.properties) for message in case.channel.published] == [4096 - 8 - 12, len(PLAIN)]
    case.lose()
    case.connect()
    case.publisher.work()
    assert case.channel.published[0].properties == b"p" * 5000


def test_what_the_socket_has_not_taken_is_limited(case: Case) -> None:
    """A broker that reads slowly must not cost a second copy of everything that waits."""
    unsent = 0
    case.publisher._turn.unsent = lambda: unsent  # type: ignore[method-assign]
    for number in range(64):
        case.publisher.submit(case.message(b"x" * (1 << 20), key=f"reply_{number}"))
    case.publisher.work()
    assert len(case.published()) == 4
    unsent = 4 << 20
    for _ in range(3):
        case.publisher.work()
        case.publisher.write()
    assert len(case.published()) == 4
    unsent = 1 << 20
    case.publisher.work()
    assert len(case.published()) == 7


def test_every_message_and_its_body_count_until_it_is_confirmed(case: Case) -> None:
    def waits() -> tuple[int, int]:
        return case.publisher.waiting(), case.publisher.waiting_bytes()

    case.submit(b"12", b"345")
    assert waits() == (2, 5)
    case.lose()
    case.publisher.submit(case.message(b"6789"))
    assert waits() == (3, 9)
    case.connect()
    case.publisher.work()
    case.give_back(b"12")
    case.ack(1)
    assert waits() == (3, 9)
    case.nack(3, multiple=True)
    assert waits() == (3, 9)
    for tag in (4, 5, 6):
        case.later(5)
        case.ack(tag)
    assert waits() == (0, 0)
