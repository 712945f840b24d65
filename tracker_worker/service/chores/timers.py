# SPDX-License-Identifier: Apache-2.0
"""Periodic actions, on one thread that never touches a ledger: each action submits a command, runs a task, or sends a
message."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf

from tracker_worker import threads
from tracker_worker.agenda import Agenda, Entry


class Timer:
    """One periodic action, until ``cancel`` or until its end."""

    __slots__ = ("_timers", "action", "entry", "interval_seconds", "until")

    def __init__(self, timers: Timers, interval_seconds: float, action: Callable[[], None], until: float) -> None:
        self._timers = timers
        self.interval_seconds = interval_seconds
        self.action: Callable[[], None] | None = action
        self.until = until
        self.entry: Entry[Timer] | None = None

    def cancel(self) -> None:
        """The action is not begun again, and is dropped at once; a call that is running ends. Harmless when it has ended."""
        self._timers.end(self)


class Timers:
    """``every`` may be called from any thread, before and after the start. Actions must be short. An action that raises
    ends the process (``died``), because chores that stop unnoticed are worse than a restart."""

    def __init__(
        self,
        died: Callable[[BaseException], None],
        *,
        monotonic: Callable[[], float] = threads.monotonic,
        runtime: threads.Runtime = threads.SYSTEM,
    ) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._agenda: Agenda[Timer] = Agenda()
        self._thread = runtime.stepped("tracker-timers", self, died, monotonic=monotonic)

    def every(self, interval_seconds: float, action: Callable[[], None], until: float = inf) -> Timer:
        """Call ``action`` each ``interval_seconds``, first after one interval. From ``until`` on (seconds on the monotonic
        clock) it is not called any more, and nothing is kept of it."""
        timer = Timer(self, interval_seconds, action, until)
        with self._lock:
            before = self._agenda.next_due()
            due = self._add_locked(timer)
        if before is None or due < before:
            self._thread.wake()
        return timer

    def _add_locked(self, timer: Timer) -> float:
        due = min(self._monotonic() + timer.interval_seconds, timer.until)
        timer.entry = self._agenda.add(due, timer)
        return due

    def end(self, timer: Timer) -> None:
        """See ``Timer.cancel``. Any thread."""
        with self._lock:
            timer.action = None
            if timer.entry is not None:
                self._agenda.remove(timer.entry)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float | None = None) -> None:
        """Returns when no action is running, or after so many seconds. Harmless when not started or stopped."""
        self._thread.stop(timeout_seconds)

    def step(self, now: float) -> float | None:
        """Call one action that is due. Returns the seconds until the next one is due; None: there is none."""
        with self._lock:
            timer = self._agenda.take(now)
            action = None if timer is None else timer.action
        if timer is not None and action is not None:
            if now < timer.until:
                action()
            self._go_on(timer, now)
        with self._lock:
            due = self._agenda.next_due()
        return None if due is None else max(0.0, due - self._monotonic())

    def _go_on(self, timer: Timer, now: float) -> None:
        """The action is due again after another interval, unless it was cancelled, also by itself, or has come to its end."""
        with self._lock:
            if timer.action is None:
                return
            if now < timer.until:
                self._add_locked(timer)
            else:
                timer.action = None
