# SPDX-License-Identifier: Apache-2.0
"""A queue between the worker and its log, so that a log that is written slowly, or not at all, holds up nothing else.

The log may be a pipe that nobody reads, or a file on a disk that hangs. A thread that logged into it would hang too: the
engine while the connections' threads still answer the broker, or the main thread, which would then not hear of a signal.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections import deque
from operator import itemgetter

from tracker_worker.threads import Condition, NamedThread

MOST_RECORDS = 10_000
MOST_BYTES = 8 * 1024 * 1024
# A traceback keeps the values alive that its functions worked on; how large they are nobody knows.
_TRACEBACK_BYTES = 65_536
_GATHER_SECONDS = 0.02
_MOST_TOGETHER = 500


class LogQueue:
    """Hands log records to their handlers on a thread of its own. When there is no room, records are dropped, and a record
    says how many as soon as there is room again. Any thread may call any method but ``start``."""

    def __init__(self, *, most_records: int = MOST_RECORDS, most_bytes: int = MOST_BYTES) -> None:
        """``most_bytes`` counts the records' texts, and a fixed size for each traceback. ``dropped_in_all`` counts the records
        that were dropped."""
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._changed = Condition()
        self._records: deque[tuple[logging.Handler, logging.LogRecord, int]] = deque()
        self._bytes = 0
        self._dropped: dict[logging.Handler, int] = {}
        self.dropped_in_all = 0
        self._closed = False
        self._hurry = False
        self._thread = NamedThread(target=self._run, name="tracker-log")

    def start(self) -> None:
        self._thread.start()

    def adopt(self) -> None:
        """Put this queue in front of every handler that any logger has. To be called again when there may be new ones."""
        loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
        for logger in loggers:
            if isinstance(logger, logging.Logger):
                logger.handlers = [
                    handler if isinstance(handler, QueuedHandler) else QueuedHandler(self, handler)
                    for handler in logger.handlers
                ]

    def put(self, handler: logging.Handler, record: logging.LogRecord) -> None:
        """Have ``handler`` handle the record soon. Never waits."""
        _freeze(record)
        size = sys.getsizeof(record.msg) + (_TRACEBACK_BYTES if record.exc_info else 0)
        with self._changed:
            if len(self._records) >= self._most_records or self._bytes + size > self._most_bytes or self._closed:
                self._dropped[handler] = self._dropped.get(handler, 0) + 1
                self.dropped_in_all += 1
                return
            if self._dropped:
                self._tell_dropped_locked()
            self._records.append((handler, record, size))
            self._bytes += size
            if len(self._records) == 1:
                self._changed.notify_all()

    def figures(self) -> tuple[int, int, int]:
        """The number of records that wait, of their bytes, and of those that were dropped and not told yet."""
        return len(self._records), self._bytes, sum(list(self._dropped.values()))

    def flush(self, seconds: float) -> None:
        """Wait until everything is written, for at most so long."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._records, seconds)
            self._hurry = self._closed

    def close(self, seconds: float) -> bool:
        """Write what is left, for at most so long, and take no further record. Returns whether everything is written."""
        with self._changed:
            self._closed = self._hurry = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _tell_dropped_locked(self) -> None:
        for handler, number in self._dropped.items():
            text = f"{number} log records were dropped: the log is written too slowly"
            record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
            self._records.append((handler, record, 0))
        self._dropped.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._records and self._dropped:
                    self._tell_dropped_locked()
                while not self._records:
                    if self._closed:
                        return
                    self._changed.wait()
                if not self._hurry:
                    # What a batch logs comes at once: one write is for all of it.
                    self._changed.wait_for(lambda: self._hurry, _GATHER_SECONDS)
                # They stay in the queue, and count, until they are written: nobody knows when a write that hangs returns.
                found = list(itertools.islice(self._records, _MOST_TOGETHER))
            for handler, series in itertools.groupby(found, key=itemgetter(0)):
                _write(handler, [record for _, record, _ in series])
            with self._changed:
                for _, _, size in found:
                    self._records.popleft()
                    self._bytes -= size
                if not self._records:
                    self._changed.notify_all()


class QueuedHandler(logging.Handler):
    """Stands in for ``handler`` at a logger."""

    def __init__(self, queue: LogQueue, handler: logging.Handler) -> None:
        super().__init__(handler.level)
        self._queue = queue
        self._handler = handler

    def createLock(self) -> None:
        """Without a lock of its own, this handler cannot be held by another thread."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        self._queue.put(self._handler, record)
        return True


def _write(handler: logging.Handler, records: list[logging.LogRecord]) -> None:
    """Have the handler handle these records, with one write if it does no more than to write them to a stream."""
    if len(records) == 1 or type(handler) is not logging.StreamHandler or handler.filters:
        for record in records:
            handler.handle(record)
        return
    try:
        handler.stream.write("".join([handler.format(record) + handler.terminator for record in records]))
        handler.flush()
    except Exception:  # noqa: BLE001 as logging does: an error of the log ends nothing
        handler.handleError(records[-1])


def _freeze(record: logging.LogRecord) -> None:
    """Make the text now: the values that it is made of may change before it is written."""
    try:
        record.msg = record.getMessage()
    except Exception as error:  # noqa: BLE001 a defect at the place that logs must not end the thread that logs
        record.msg = f"{record.msg!r} cannot be logged: {error!r}"
    record.args = None
