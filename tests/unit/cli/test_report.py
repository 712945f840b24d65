# SPDX-License-Identifier: Apache-2.0
"""The report that the signal USR2 asks for: bounded in time and size, whatever the parts and the reader do."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from tests.support.deadline import wait_until
from tracker_worker.cli.log_queue import LogQueue
from tracker_worker.cli.report import Reporter, log_lines
from tracker_worker.service.report import Section

HEAD = f"--- report of tracker-worker {os.getpid()} ---"
END = "--- end of report ---"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


@contextlib.contextmanager
def running(reporter: Reporter) -> Iterator[None]:
    """The reporter's thread runs in the block, and has ended after it."""
    reporter.start()
    (thread,) = (each for each in threading.enumerate() if each.name == "tracker-report")
    try:
        yield
    finally:
        reporter.close()
        thread.join(5)


def read_report(reader: int) -> str:
    """The bytes in a pipe up to the end of a report."""
    found = b""
    while END.encode() + b"\n" not in found:
        piece = os.read(reader, 65536)
        assert piece, "the pipe is closed"
        found += piece
    return found.decode()


def test_a_report_has_its_sections_between_two_lines() -> None:
    reporter = Reporter(lambda: [Section("worker", lambda: ["ledger_id: x"]), Section("decisions", list)])
    assert reporter.text() == f"{HEAD}\nworker:\n  ledger_id: x\ndecisions:\n  nothing\n{END}\n"


def test_a_section_that_fails_or_hangs_hides_only_itself() -> None:
    hanging = threading.Event()

    def fails() -> Iterator[str]:
        yield "the first line"
        raise RuntimeError("no\nsuch \x1b[1m thing")

    def hangs() -> Iterator[str]:
        yield "the first line"
        hanging.wait()

    sections = [Section("a", fails), Section("b", hangs), Section("c", lambda: ["the last section"])]
    reporter = Reporter(lambda: sections, section_seconds=0.1)
    lines = reporter.text().splitlines()
    assert lines[1:4] == ["a:", "  the first line", "  not known: RuntimeError: no\\nsuch \\x1b[1m thing"]
    assert lines[4:] == ["b:", "  the first line", "  no answer within 0.1 s", "c:", "  the last section", END]

    threads = threading.active_count()
    assert "  still no answer from an earlier report" in reporter.text().splitlines()
    assert threading.active_count() <= threads
    hanging.set()
    wait_until(lambda: "no answer" not in reporter.text(), "the section answers again")


def test_a_report_has_a_limited_size() -> None:
    endless = Section("many", lambda: ("x" * 10_000 for _ in iter(int, 1)))
    text = Reporter(lambda: [endless] * 10).text()
    assert len(text) < 270_000
    assert text.splitlines()[-2:] == ["... the rest is left out", END]
    assert max(map(len, text.splitlines())) <= 502


def test_each_request_is_answered(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    reporter = Reporter(lambda: [Section("a", lambda: ["1"])], file_descriptor=writer)
    with running(reporter):
        for _ in range(3):
            reporter.request()
            assert read_report(reader) == f"{HEAD}\na:\n  1\n{END}\n"


@pytest.mark.parametrize("blocking", [True, False])
def test_nobody_waits_for_a_reader_that_does_not_read(pipe: tuple[int, int], blocking: bool) -> None:
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    made: list[int] = []

    def lines() -> list[str]:
        made.append(1)
        return ["x" * 400] * 400  # more than a pipe holds

    reporter = Reporter(lambda: [Section("a", lines)], file_descriptor=writer)
    with running(reporter):
        reporter.request()
        wait_until(lambda: bool(made), "the report is made")
        threads = threading.active_count()
        for _ in range(100_000):
            reporter.request()
        assert (len(made), threading.active_count()) == (1, threads)
        assert read_report(reader).count("x" * 400) == 400
        assert read_report(reader).startswith(HEAD)


def test_a_closed_stderr_ends_nothing(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = pipe
    os.close(reader)
    made: list[int] = []
    reporter = Reporter(lambda: [Section("a", lambda: [str(made.append(1))])], file_descriptor=writer)
    with running(reporter):
        for count in (1, 2):
            reporter.request()
            wait_until(lambda count=count: len(made) == count, "the report is made")
        wait_until(lambda: "the report cannot be written" in caplog.text, "the log says so")


def test_the_log_says_what_waits_and_what_it_has_dropped() -> None:
    assert list(log_lines(LogQueue())) == ["0 records, 0 bytes"]
