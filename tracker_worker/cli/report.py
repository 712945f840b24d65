# SPDX-License-Identifier: Apache-2.0
"""The report on stderr that a worker writes when it gets the signal USR2.

It must never end the worker or hold it up: the signal's handler only wakes a thread of its own, which has asked for nothing
else. A section that does not come in time is left out with a note, so that a part that hangs hides only itself; the report has
a limited size, and is written past the log, to the file descriptor. A stderr that nobody reads keeps this thread, and nothing
else; what is asked meanwhile is one further report.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator

from tracker_worker.cli.log_queue import LogQueue
from tracker_worker.service.report import Section
from tracker_worker.text import counted, printable
from tracker_worker.threads import NamedThread

LOG = logging.getLogger(__name__)

STDERR = 2
_SECTION_SECONDS = 1.0
_MOST_LINES = 500  # of a section
_MOST_CHARACTERS = 500  # of a line
_MOST_BYTES = 256 * 1024
_WRITE_BYTES = 4096  # a pipe takes so many at once, and not between two pieces of a line of the log


class Reporter:
    """``start`` belongs to the main thread. ``sections`` is called on the reporter's thread for each report."""

    def __init__(
        self,
        sections: Callable[[], Iterable[Section]],
        *,
        file_descriptor: int = STDERR,
        section_seconds: float = _SECTION_SECONDS,
    ) -> None:
        self._sections = sections
        self._file_descriptor = file_descriptor
        self._section_seconds = section_seconds
        self._reading: socket.socket | None = None
        self._writing: socket.socket | None = None
        # The sections that have not come yet, by title: none is asked twice at a time.
        self._late: dict[str, NamedThread] = {}

    def start(self) -> None:
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        NamedThread(target=self._run, name="tracker-report").start()

    def close(self) -> None:
        """Write no report any more. The end of the process does the same."""
        if self._writing is not None:
            self._writing.close()

    def request(self) -> None:
        """Have a report written soon. Any thread and any signal handler may call this between ``start`` and ``close``; it never
        waits."""
        assert self._writing is not None
        with contextlib.suppress(BlockingIOError):  # as full as it is, it wakes the thread
            self._writing.send(b"\0")

    def _run(self) -> None:
        assert self._reading is not None
        with self._reading:
            while self._reading.recv(_WRITE_BYTES):
                try:
                    self._write(self.text().encode("utf-8", "backslashreplace"))
                except OSError as error:
                    LOG.warning("the report cannot be written: %s", error)

    def text(self) -> str:
        """The report."""
        pid = os.getpid()
        lines, left = [], _MOST_BYTES
        for line in self._lines():
            left -= len(line.encode("utf-8", "backslashreplace")) + 1
            if left < 0:
                lines.append("... the rest is left out")
                break
            lines.append(line)
        return "\n".join([f"--- report of tracker-worker {pid} ---", *lines, "--- end of report ---", ""])

    def _lines(self) -> Iterator[str]:
        for section in self._sections():
            yield f"{section.title}:"
            yield from (f"  {printable(line, _MOST_CHARACTERS)}" for line in self._asked(section))

    def _asked(self, section: Section) -> list[str]:
        """The lines of a section, or why there are none."""
        if (late := self._late.get(section.title)) is not None and late.is_alive():
            return ["still no answer from an earlier report"]
        found: list[str] = []

        def ask() -> None:
            try:
                for number, line in enumerate(section.lines()):
                    if number == _MOST_LINES:
                        found.append("... the rest is left out")
                        break
                    found.append(line)
            except Exception as error:
                LOG.warning("a section of the report failed", exc_info=error)
                found.append(f"not known: {type(error).__name__}: {error}")

        thread = NamedThread(target=ask, name="tracker-ask")
        thread.start()
        thread.join(self._section_seconds)
        if thread.is_alive():
            self._late[section.title] = thread
            return [*found, f"no answer within {self._section_seconds:g} s"]
        return found or ["nothing"]

    def _write(self, content: bytes) -> None:
        """Write all of it, however long that takes. Raises OSError."""
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self._file_descriptor, _whole_lines(left)) :]
            except BlockingIOError:  # somebody else has made it not wait
                select.select([], [self._file_descriptor], [])


def log_lines(log: LogQueue) -> Iterator[str]:
    """What waits in the log's queue."""
    records, size, dropped = log.figures()
    yield f"{counted(records, 'record')}, {counted(size, 'byte')}"
    if dropped:
        yield f"{counted(dropped, 'record')} dropped"


def _whole_lines(content: memoryview) -> memoryview:
    """As many whole lines as are written at once; of a line that is longer, a piece."""
    piece = bytes(content[:_WRITE_BYTES])
    return content[: piece.rfind(b"\n") + 1 or len(piece)]
