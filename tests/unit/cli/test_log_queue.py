# SPDX-License-Identifier: Apache-2.0
"""The queue in front of the log: nobody who logs waits for whoever reads the log."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.support.deadline import SECONDS, wait_until
from tracker_worker.cli.log_queue import LogQueue, QueuedHandler

DROPPED = "{} log records were dropped: the log is written too slowly"


class SlowLog(logging.Handler):
    """A log whose reader reads only while ``reads`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()
        self.texts: list[str] = []
        self.tracebacks = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.reads.wait()
        self.texts.append(record.getMessage())
        self.tracebacks += bool(record.exc_info)


@pytest.fixture
def slow() -> Iterator[SlowLog]:
    log = SlowLog()
    yield log
    log.reads.set()


@pytest.fixture
def logger() -> logging.Logger:
    logger = logging.Logger("tracker_worker.test_log_queue")
    return logger


def queued(logger: logging.Logger, slow: SlowLog, **limits: int) -> LogQueue:
    queue = LogQueue(**limits)
    logger.handlers = [QueuedHandler(queue, slow)]
    queue.start()
    return queue


def test_records_are_written_in_their_order_with_the_values_of_their_moment(
    logger: logging.Logger, slow: SlowLog
) -> None:
    queue = queued(logger, slow)
    value = [1]
    logger.warning("value %s", value)
    value.append(2)
    logger.warning("second")
    slow.reads.set()

    assert queue.close(SECONDS)
    assert slow.texts == ["value [1]", "second"]


def test_records_over_the_number_are_dropped_and_counted(logger: logging.Logger, slow: SlowLog) -> None:
    queue = queued(logger, slow, most_records=3)
    for number in range(10):
        logger.warning("%s", number)
    slow.reads.set()
    wait_until(lambda: len(slow.texts) == 4, "the queue is written")
    assert slow.texts == ["0", "1", "2", DROPPED.format(7)]

    logger.warning("later")

    assert queue.close(SECONDS)
    assert slow.texts[4:] == ["later"]


def test_records_over_the_bytes_are_dropped_and_counted(logger: logging.Logger, slow: SlowLog) -> None:
    text = "x" * 1000
    queue = queued(logger, slow, most_bytes=3 * sys.getsizeof(text))
    for _ in range(4):
        logger.warning(text)
    logger.warning("y" * 10_000)
    slow.reads.set()

    assert queue.close(SECONDS)
    assert slow.texts == [text, text, text, DROPPED.format(2)]


def test_room_that_was_used_is_free_again(logger: logging.Logger, slow: SlowLog) -> None:
    slow.reads.set()
    text = "x" * 1000
    queue = queued(logger, slow, most_records=2, most_bytes=2 * sys.getsizeof(text))
    for number in range(100):
        logger.warning(text)
        wait_until(lambda number=number: len(slow.texts) == number + 1, "it is written")

    assert queue.close(SECONDS)
    assert slow.texts == [text] * 100


def test_a_traceback_counts_more_than_its_text(logger: logging.Logger, slow: SlowLog) -> None:
    queue = queued(logger, slow)
    for _ in range(300):
        try:
            raise ValueError("a defect")
        except ValueError:
            logger.exception("failed")
    slow.reads.set()

    assert queue.close(SECONDS)
    assert slow.tracebacks < 130
    assert slow.texts[-1] == DROPPED.format(300 - slow.tracebacks)


def test_closing_waits_no_longer_than_it_may(logger: logging.Logger, slow: SlowLog) -> None:
    queue = queued(logger, slow)
    logger.warning("unread")

    assert not queue.close(0.01)
    logger.warning("too late")

    slow.reads.set()
    assert queue.close(SECONDS)
    assert slow.texts[0] == "unread"


def test_a_record_that_has_no_text_says_so_and_ends_nothing(logger: logging.Logger, slow: SlowLog) -> None:
    queue = queued(logger, slow)
    slow.reads.set()
    logger.warning("%d items", "many")

    assert queue.close(SECONDS)
    assert len(slow.texts) == 1
    assert slow.texts[0].startswith("'%d items' cannot be logged: TypeError")


def test_the_queue_is_put_once_in_front_of_every_handler(slow: SlowLog) -> None:
    logger = logging.getLogger("tracker_worker.test_log_queue.adopted")
    logger.handlers = [slow]
    root = list(logging.getLogger().handlers)
    queue = LogQueue()
    try:
        queue.adopt()
        queue.adopt()
        (handler,) = logger.handlers
        assert isinstance(handler, QueuedHandler)
        logger.warning("still here")
        assert slow.texts == []
    finally:
        logger.handlers = []
        logging.getLogger().handlers = root
    queue.start()
    slow.reads.set()
    assert queue.close(SECONDS)
    assert slow.texts == ["still here"]
