# SPDX-License-Identifier: Apache-2.0
"""A pipe that wakes a thread which sleeps in ``poll``."""

from __future__ import annotations

import contextlib
import os
import threading


class WakePipe:
    """``wake`` may be called from any thread, also after ``close``; the others belong to the thread that sleeps."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        self._lock = threading.Lock()
        self._open = True
        self._woken = False

    def wake(self) -> None:
        """Make ``reader`` readable."""
        if self._woken:
            return  # the thread has not yet read the last wake-up, and works after it
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._open:
                self._woken = True
                os.write(self._writer, b"\0")

    def drain(self) -> None:
        """Take note of the wake-ups until now."""
        os.read(self.reader, 65536)
        self._woken = False

    def close(self) -> None:
        """Close both ends. Harmless when closed."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self.reader)
                os.close(self._writer)

    def abandon(self) -> None:
        """The same in a forked child. Takes no lock, which a thread of the parent may have held."""
        if self._open:
            self._open = False
            os.close(self.reader)
            os.close(self._writer)
