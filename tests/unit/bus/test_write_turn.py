# SPDX-License-Identifier: Apache-2.0
"""The times at which a publisher reads confirms, and the threads that write while the link's thread sleeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.publishing import FEW, QUEUE, RETRY, WINDOW, Case, stopped
from tracker_worker.bus.amqp import publisher as module
from tracker_worker.bus.amqp.outgoing import FOREVER

DEAF = module._CONFIRM_SECONDS


@pytest.fixture
def case() -> Iterator[Case]:
    with stopped() as case:
        yield case


class TestConfirmsAreReadAMomentLate:
    """Confirms are read late while few messages wait for a confirm."""

    def test_the_first_confirm_is_read_immediately(self, case: Case) -> None:
        assert case.publisher.read_pause() <= 0
        case.submit(b"1")
        assert case.publisher.read_pause() <= 0

    @pytest.mark.parametrize("answer", [Case.ack, Case.nack])
    def test_after_any_confirm_the_next_confirm_may_be_read_late(
        self, case: Case, answer: Callable[[Case, int], None]
    ) -> None:
        case.submit(b"1", b"2")
        answer(case, 1)
        assert case.publisher.read_pause() == pytest.approx(DEAF)

    def test_reading_may_be_late_when_no_message_waits_for_its_confirm(self, case: Case) -> None:
        case.submit(b"1", b"2")
        case.ack(2, multiple=True)
        assert case.publisher.read_pause() == pytest.approx(DEAF)

    def test_reading_is_late_by_a_limited_time_only(self, case: Case) -> None:
        case.submit(b"1", b"2")
        case.ack(1)
        case.now += DEAF * 0.75
        assert case.publisher.read_pause() == pytest.approx(DEAF * 0.25)
        case.now += DEAF * 0.25
        assert case.publisher.read_pause() == pytest.approx(0.0)
        case.now += DEAF
        assert case.publisher.read_pause() <= 0
        case.ack(2)
        assert case.publisher.read_pause() == pytest.approx(DEAF)

    def test_reading_is_not_late_when_more_than_a_few_messages_wait(self, case: Case) -> None:
        case.submit(*(b"%d" % number for number in range(FEW + 1)))
        case.ack(1)
        assert case.publisher.read_pause() == 0.0
        case.ack(2)
        assert case.publisher.read_pause() == pytest.approx(DEAF)
        case.submit(b"one more")
        assert case.publisher.read_pause() == 0.0

    def test_reading_is_not_late_while_a_prompt_message_waits(self, case: Case) -> None:
        case.submit(b"1", b"2")
        case.ack(1)
        urgent = case.message(b"3")
        urgent.urgent = True
        case.publisher.submit(urgent)
        case.publisher.work()
        assert case.publisher.read_pause() == 0.0
        # The message is published again on the next connection, where reading must not be late either.
        case.lose()
        case.connect()
        assert case.publisher.read_pause() == pytest.approx(DEAF)
        case.publisher.work()
        assert case.publisher.read_pause() == 0.0
        case.ack(2, multiple=True)
        assert case.publisher.read_pause() == pytest.approx(DEAF)

    def test_reading_is_not_late_when_the_window_is_full(self) -> None:
        case = Case(confirm_threshold=WINDOW + 1)
        case.submit(*(b"%d" % number for number in range(WINDOW + 1)))
        case.ack(1)
        assert case.publisher.read_pause() == 0.0
        case.publisher.stop(0)


class TestWhoSubmitsWrites:
    """The submitting thread writes while the link's thread sleeps. The rules of order are the same."""

    def test_the_submitting_thread_writes_immediately_and_once(self, case: Case) -> None:
        case.rest()
        case.publisher.submit(case.message(b"1"), case.message(b"2"))
        case.publisher.submit(case.message(b"3"))
        assert case.published() == [b"1", b"2", b"3"]
        case.publisher.work()
        assert case.published() == [b"1", b"2", b"3"]
        case.ack(3, multiple=True)
        assert case.done == [(b"1", True), (b"2", True), (b"3", True)]

    def test_the_submitting_thread_writes_no_more_than_the_window(self, case: Case) -> None:
        case.rest()
        case.publisher.submit(*(case.message(b"%d" % number) for number in range(WINDOW + 1)))
        case.publisher.submit(case.message(b"last"))
        assert case.published() == [b"%d" % number for number in range(WINDOW)]
        case.ack(2, multiple=True)
        case.publisher.work()
        assert case.published()[WINDOW:] == [b"%d" % WINDOW, b"last"]

    def test_the_submitting_thread_leaves_messages_that_wait_for_their_queue_to_the_link(self, case: Case) -> None:
        case.submit(b"1", retry_before=FOREVER, key=QUEUE)
        case.give_back(b"1", QUEUE, "openstack")
        case.ack(1)
        case.rest()
        case.publisher.submit(case.message(b"2", retry_before=FOREVER, key=QUEUE))
        case.publisher.submit(case.message(b"other", retry_before=FOREVER, key="reply_2"))
        # Declarations and the release of waiting messages stay with the link's thread, even when they are due.
        case.now += RETRY
        case.publisher.submit(case.message(b"3", retry_before=FOREVER, key=QUEUE))
        declared = case.connection.declared()
        assert case.published() == [b"1", b"other"]
        case.ack(2)
        case.publisher.work()
        assert len(case.connection.declared()) > len(declared)
        assert case.published() == [b"1", b"other", b"1"]

    def test_the_submitting_thread_leaves_messages_that_wait_for_their_next_attempt_to_the_link(
        self, case: Case
    ) -> None:
        case.submit(b"1")
        case.nack(1)
        case.rest()
        case.now += RETRY
        case.publisher.submit(case.message(b"2", key="reply_2"))
        assert case.published() == [b"1", b"2"]
        case.publisher.work()
        assert case.published() == [b"1", b"2", b"1"]

    def test_the_submitting_thread_reports_no_confirm(self, case: Case) -> None:
        """``confirmed`` is called only on the publisher's thread."""
        case.submit(b"1")
        case.ack(1)
        case.rest()
        case.publisher.submit(case.message(b"2"))
        assert (case.done, case.told) == ([(b"1", True)], 0)

    def test_a_message_that_is_submitted_during_a_send_is_written_next(self, case: Case) -> None:
        """``renewed`` may submit a message: it is written next, and the thread does not wait for itself."""

        def renewed(body: bytes) -> bytes:
            case.publisher.submit(case.message(b"3"))
            return body

        case.rest()
        first = case.message(b"1")
        first.renewed = renewed
        first.attempts = 1
        case.publisher.submit(first, case.message(b"2"))
        assert case.published() == [b"1", b"2", b"3"]
