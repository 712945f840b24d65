# SPDX-License-Identifier: Apache-2.0
"""The publisher's reactions to the broker's answers: confirmed, refused, returned, or no answer because of a lost
connection.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.publishing import PLAIN, RETRY, WINDOW, Case, clocked
from tracker_worker.bus.amqp.publisher import FOREVER, Message


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    with clocked(monkeypatch) as case:
        yield case


def test_confirms_that_are_read_together_are_reported_together(case: Case) -> None:
    case.submit(b"1", b"2", b"3")
    case.ack(1)
    case.ack(2)
    assert case.told == 0
    case.publisher.work()
    assert case.told == 2
    case.ack(3)
    case.publisher.lost()
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


def test_a_refused_message_is_published_again_after_a_pause(case: Case) -> None:
    case.submit(b"1", b"2", b"3")
    case.nack(2, multiple=True)
    case.ack(3)
    assert case.published() == [b"1", b"2", b"3"]
    assert case.publisher.due_in() == RETRY
    case.later(RETRY)
    assert case.published() == [b"1", b"2", b"3", b"1", b"2"]
    case.ack(5, multiple=True)
    assert case.done == [(b"3", True), (b"1", True), (b"2", True)]


def test_messages_beyond_the_window_wait_for_confirms(case: Case) -> None:
    case.submit(*(b"%d" % number for number in range(WINDOW + 10)))
    assert len(case.published()) == WINDOW
    case.ack(4, multiple=True)
    case.publisher.work()
    assert len(case.published()) == WINDOW + 4
    case.ack(WINDOW + 4, multiple=True)
    case.publisher.work()
    assert case.published() == [b"%d" % number for number in range(WINDOW + 10)]


def test_a_returned_message_without_retries_is_reported(case: Case) -> None:
    case.submit(b"1", b"2")
    case.give_back(b"1")
    assert case.done == []
    case.ack(2, multiple=True)
    assert case.done == [(b"1", False), (b"2", True)]
    case.later(RETRY)
    assert case.published() == [b"1", b"2"]


def test_a_returned_message_is_reported_once_and_retried_until_its_time_limit(case: Case) -> None:
    case.submit(b"1", retry_before=case.now + 2 * RETRY)
    for attempt in (1, 2, 3):
        case.give_back(b"1")
        case.ack(attempt)
        assert case.done == [(b"1", False)]
        case.later(RETRY)
    assert case.published() == [b"1"] * 3
    assert case.publisher.idle()


def test_a_returned_message_that_is_routed_later_is_not_reported_again(case: Case) -> None:
    case.submit(b"1", retry_before=case.now + 60)
    case.give_back(b"1")
    case.ack(1)
    case.later(RETRY)
    case.ack(2)
    case.later(RETRY)
    assert case.done == [(b"1", False)]
    assert case.published() == [b"1", b"1"]


def test_a_message_that_is_refused_and_then_returned_is_reported(case: Case) -> None:
    """Otherwise its request would never be settled."""
    case.submit(b"1", retry_before=case.now + 60)
    case.nack(1)
    case.later(RETRY)
    case.give_back(b"1")
    case.ack(2)
    assert case.done == [(b"1", False)]


def test_a_message_that_is_refused_after_a_return_may_be_routed_later(case: Case) -> None:
    case.submit(b"1")
    case.give_back(b"1")
    case.nack(1)
    case.later(RETRY)
    case.ack(2)
    assert case.done == [(b"1", True)]


def test_a_message_without_a_time_limit_is_retried_with_a_declaration_each_time(case: Case) -> None:
    case.submit(b"1", retry_before=FOREVER)
    for attempt in range(1, 6):
        case.give_back(b"1")
        case.ack(attempt)
        before = case.connection.declared().count("notifications.info")
        case.later(RETRY)
        assert case.connection.declared().count("notifications.info") == before + 1
    assert case.done == []
    case.ack(6)
    assert case.done == [(b"1", True)]


def test_a_return_is_matched_by_body_and_routing_key(case: Case) -> None:
    for body, key in ((b"1", "reply_1"), (b"1", "reply_2"), (b"2", "reply_1"), (b"1", "reply_1")):
        case.publisher.submit(case.message(body, key=key))
    case.publisher.work()
    case.give_back(b"1", "reply_2")
    case.give_back(b"1")
    case.ack(4, multiple=True)
    assert case.done == [(b"1", False), (b"1", False), (b"2", True), (b"1", True)]
    assert case.channel.auto_decode is False


def test_a_message_that_waits_for_a_retry_delays_no_other_message(case: Case) -> None:
    case.submit(b"1", retry_before=case.now + 60)
    case.give_back(b"1")
    case.ack(1)
    case.submit(b"2")
    assert case.published() == [b"1", b"2"]
    case.ack(2)
    # The message does not delay a stop either: the publisher does not retry it then.
    assert case.publisher.idle()


def test_after_a_lost_connection_unconfirmed_messages_are_published_first_in_order(case: Case) -> None:
    case.submit(b"1", b"2", b"3", b"4")
    case.ack(2)
    case.publisher.lost()
    case.publisher.submit(case.message(b"5"))
    case.connect()
    case.publisher.work()
    assert case.published() == [b"1", b"3", b"4", b"5"]
    case.ack(4, multiple=True)
    assert case.done == [(b"2", True), (b"1", True), (b"3", True), (b"4", True), (b"5", True)]


def test_a_return_without_its_confirm_is_dropped_with_the_connection(case: Case) -> None:
    case.submit(b"1", b"2")
    case.give_back(b"1")
    case.publisher.lost()
    case.connect()
    case.publisher.work()
    case.ack(2, multiple=True)
    assert case.done == [(b"1", True), (b"2", True)]


def test_a_lost_connection_loses_no_message_that_is_submitted_at_the_same_time(case: Case) -> None:
    """Other threads submit messages while unconfirmed messages are put back into the queue."""
    submitted: list[Message] = []

    class Submitting(Message):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "returned" and value is False and hasattr(self, "attempts"):
                submitted.append(case.message(b"more"))
                case.publisher.submit(submitted[-1])
            super().__setattr__(name, value)

    watched = [Submitting(exchange="", routing_key="reply_1", body=b"%d" % n, properties=PLAIN) for n in range(3)]
    case.publisher.submit(*watched)
    case.publisher.work()
    case.publisher.submit(case.message(b"waiting"), case.message(b"waiting"))
    case.publisher.lost()
    case.connect()
    case.publisher.work()
    assert case.published() == [b"0", b"1", b"2", b"waiting", b"waiting", *[b"more"] * len(submitted)]
    assert submitted


def test_a_heartbeat_is_not_mandatory(case: Case) -> None:
    beat = Message(exchange="", routing_key="reply_1", body=b"beat", properties=PLAIN, mandatory=False)
    case.publisher.submit(beat)
    case.publisher.work()
    case.ack(1)
    assert case.channel.published[0].mandatory is False
    assert case.publisher.idle()


def test_messages_wait_in_order_for_their_queue_and_delay_no_other_message(case: Case) -> None:
    case.submit(b"1", b"2", b"3", retry_before=FOREVER)
    case.give_back(b"1")
    case.ack(1)
    case.submit(b"4", retry_before=FOREVER)
    case.publisher.submit(case.message(b"other", key="reply_2"))
    case.publisher.work()
    assert case.published() == [b"1", b"2", b"3", b"other"]
    # The answer for message 3 is unknown yet, and 3 must be published before 4.
    case.give_back(b"2")
    case.ack(2)
    case.later(RETRY)
    assert case.published() == [b"1", b"2", b"3", b"other"]
    case.give_back(b"3")
    case.ack(4, multiple=True)
    assert case.publisher.due_in() == RETRY
    case.later(RETRY)
    assert case.published() == [b"1", b"2", b"3", b"other", b"1", b"2", b"3", b"4"]
    case.ack(8, multiple=True)
    assert case.done == [(b"other", True), (b"1", True), (b"2", True), (b"3", True), (b"4", True)]


def test_messages_that_wait_for_their_queue_are_published_in_order_on_the_next_connection(case: Case) -> None:
    case.submit(b"1", b"2", retry_before=FOREVER)
    case.give_back(b"1")
    case.ack(1)
    case.submit(b"3", retry_before=FOREVER)
    case.publisher.lost()
    case.connect()
    case.publisher.work()
    assert case.published() == [b"1", b"2", b"3"]
