# SPDX-License-Identifier: Apache-2.0
"""The formatter for series of records gives what the formatter within it would give."""

from __future__ import annotations

import itertools
import logging

import pytest

from tracker_worker.cli.logs import SeriesFormatter

FORMATS = [
    "%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(thread)d %(lineno)d [-] %(message)s",
    "%(message)s",
    "%(message)s %(message)s",
    "%(message)s at %(lineno)d",
]


class Counting(logging.Formatter):
    """Counts the records that it formats."""

    count = 0

    def format(self, record: logging.LogRecord) -> str:
        self.count += 1
        return super().format(record)


def records() -> list[logging.LogRecord]:
    """Records that differ in one thing each, and repeat."""
    made = []
    for at, line, level, name, text in itertools.product(
        (1000.0, 1000.0010001, 1001.0), (1, 2), (logging.INFO, logging.WARNING), ("a", "b"), ("", "x", "y", "x x", "two\nlines")
    ):  # fmt: skip
        record = logging.LogRecord(name, level, "file.py", line, text, None, None)
        record.created, record.msecs = at, float(int((at - int(at)) * 1000))
        made.append(record)
    return made


@pytest.mark.parametrize("layout", FORMATS)
def test_every_record_looks_as_without_series(layout: str) -> None:
    plain, series = logging.Formatter(layout), SeriesFormatter(logging.Formatter(layout))

    expected = [plain.format(record) for record in records()]

    assert [series.format(record) for record in records()] == expected


def test_the_records_of_a_series_are_formatted_once() -> None:
    inner = Counting(FORMATS[0])
    formatter = SeriesFormatter(inner)
    texts = []
    for number in range(10):
        record = logging.LogRecord("a", logging.INFO, "file.py", 1, f"decision {number}", None, None)
        record.created, record.msecs = 1000.0, 0.0
        texts.append(formatter.format(record))

    assert inner.count == 1
    assert [text.rpartition("] ")[2] for text in texts] == [f"decision {number}" for number in range(10)]


def test_what_a_caller_adds_to_a_record_is_never_taken_from_another_one() -> None:
    formatter = SeriesFormatter(logging.Formatter("%(extra)s %(message)s"))
    texts = []
    for extra in ("one", "two"):
        record = logging.LogRecord("a", logging.INFO, "file.py", 1, "text", None, None)
        record.created, record.msecs = 1000.0, 0.0
        record.extra = extra
        texts.append(formatter.format(record))

    assert texts == ["one text", "two text"]


def test_a_traceback_is_formatted_whole() -> None:
    formatter = SeriesFormatter(logging.Formatter("%(message)s"))
    try:
        raise ValueError("a defect")
    except ValueError as error:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "t", None, (ValueError, error, error.__traceback__))

    assert formatter.format(record).endswith("ValueError: a defect")
