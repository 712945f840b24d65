# SPDX-License-Identifier: Apache-2.0
"""A machine: the clock, threads and randomness of one process, and what can happen to all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.stage import Due, Stage
from tests.simulation.virtual import VirtualEvent, VirtualThread
from tracker_worker import threads

_TURN_SECONDS = 0.0005
"""The longest time from a wake-up to the turn of the thread."""
_IDLE_SECONDS = 1.0


class Machine(threads.Runtime):
    """Runs one worker. ``ahead`` is by how many seconds its time of day is wrong. A machine that has crashed does nothing more;
    one that pauses does everything late."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.ahead = 0.0
        self.crashed = False
        self.hung: set[str] = set()
        """The names of the stepped threads that never go on."""
        self.crashes_at: str | None = None
        """The point at which it crashes when it comes there next (see ``reach``)."""
        self.crash_there: Callable[[], object] = self.crash
        self.closed_by_crash: list[Callable[[], object]] = []
        self._paused_until = 0.0
        self._pauses: list[tuple[float, float]] = []

    # --- what can happen to it ---------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Nothing of it goes on: no thread, no timer, no clean-up. What it has open outside is closed."""
        self.crashed = True
        while self.closed_by_crash:
            self.closed_by_crash.pop()()

    def pause(self, seconds: float) -> None:
        """As by SIGSTOP and, after so many seconds, SIGCONT."""
        self._paused_until = max(self._paused_until, self.stage.now + seconds)
        self._pauses.append((self.stage.now, self._paused_until))

    def reach(self, point: str) -> None:
        """A virtual thread of the machine is at this point, which is where the process may end."""
        if self.crashes_at == point:
            self.crash_there()
            self.stage.wait()

    def paused(self) -> bool:
        return self.stage.now < self._paused_until

    def paused_within(self, begin: float, end: float) -> bool:
        """Whether it has paused between two times."""
        return any(first <= end and begin <= last for first, last in self._pauses)

    # --- for what runs on it -----------------------------------------------------------------------------------------

    def later(self, seconds: float, action: Callable[[], object]) -> Due:
        """Have ``action`` happen after so many seconds, unless the machine has crashed by then."""

        def happen() -> None:
            if self.crashed:
                # A thread that is thrown away would do its clean-up, whenever that happens.
                self.stage.left.append(action)
                return
            if self.stage.now < self._paused_until:
                self.stage.put_off(due, self._paused_until)
            else:
                action()

        due = self.stage.later(seconds, happen)
        return due

    def soon(self, action: Callable[[], object]) -> Due:
        """Have ``action`` happen as soon as another thread may have its turn."""
        return self.later(self.stage.random.random() * _TURN_SECONDS, action)

    def clock(self) -> int:
        """The time of day of this machine, in microseconds."""
        return self.stage.microseconds() + round(self.ahead * 1_000_000)

    def spawn(self, target: Callable[[], object]) -> None:
        """Run ``target`` on a virtual thread."""
        thread = self.stage.thread(target)
        self.soon(lambda: self.stage.go_on(thread))

    def sleep(self, seconds: float) -> None:
        """Wait on a virtual thread."""
        thread = self.stage.current()
        self.later(seconds, lambda: self.stage.go_on(thread))
        self.stage.wait()

    # --- threads.Runtime ---------------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        return self.stage.now

    def stepped(
        self,
        name: str,
        part: threads.Stepped,
        died: Callable[[BaseException], None],
        *,
        monotonic: Callable[[], float],
    ) -> threads.StepThread:
        return VirtualStepThread(self, name, part, died)

    def pool(self, name: str, size: int, *, patience_seconds: float) -> threads.Pool:
        return threads.DaemonPool(
            name,
            size,
            patience_seconds=patience_seconds,
            monotonic=self.monotonic,
            condition=self.condition,
            start_thread=lambda target, _: self.spawn(target),
        )

    def condition(self) -> Any:
        return VirtualCondition(self)

    def lock(self) -> Any:
        return VirtualLock(self)

    def thread(self, target: Callable[[], object], name: str, died: Callable[[BaseException], None]) -> threads.Thread:
        return VirtualThread(self, target, died)

    def event(self) -> Any:
        return VirtualEvent(self)

    def microseconds(self) -> int:
        return self.clock()

    def process(self) -> str:
        return self.name

    def random_bytes(self, count: int) -> bytes:
        return self.stage.random.randbytes(count)


class VirtualStepThread(threads.StepThread):
    """A stepped part on a virtual thread."""

    def __init__(
        self, machine: Machine, name: str, part: threads.Stepped, died: Callable[[BaseException], None]
    ) -> None:
        self.machine = machine
        self.name = name
        self.turns = 0
        self.wake = self._wake
        self._part = part
        self._died = died
        self._stopping = False
        self._alive = False
        self._woken = False
        self._due: Due | None = None
        self._ended = VirtualCondition(machine)

    def start(self) -> None:
        self._alive = True
        self._virtual = self.machine.stage.thread(self._run)
        self._due = self.machine.soon(self._go_on)

    def _wake(self) -> None:
        if not self._woken and self._alive:
            self._woken = True
            if self._due is not None:
                self._due.cancelled = True
                self._due = self.machine.soon(self._go_on)

    def _go_on(self) -> None:
        self._due = None
        if self.name not in self.machine.hung:
            self.machine.stage.go_on(self._virtual)

    def is_between_steps(self) -> bool:
        """Whether it waits for its next step, and is not in the middle of one."""
        return self._due is not None

    def _run(self) -> None:
        machine, part = self.machine, self._part
        try:
            while not self._stopping:
                self.turns += 1
                self._woken = False
                wait = part.step(machine.stage.now)
                if self._woken:
                    self._due = machine.soon(self._go_on)
                else:
                    seconds = _IDLE_SECONDS if wait is None else min(wait, _IDLE_SECONDS)
                    self._due = machine.later(seconds, self._go_on)
                machine.stage.wait()
        except Exception as error:  # noqa: BLE001 as the real one
            self._died(error)
        finally:
            self._alive = False
            self._ended.notify_all()

    def instead(self, step: Callable[[], float | None]) -> bool:
        machine = self.machine
        if not self._alive or self._stopping or self._due is None or self.name in machine.hung or not self.turns:
            return False
        self._due.cancelled, self._due = True, None
        self.turns += 1
        try:
            wait = step()
        except Exception as error:  # noqa: BLE001 as the real one
            self._stopping = self._woken = True
            wait = 0.0
            self._died(error)
        if self._woken:
            self._due = machine.soon(self._go_on)
        else:
            self._due = machine.later(_IDLE_SECONDS if wait is None else min(wait, _IDLE_SECONDS), self._go_on)
        return True

    def stop(self, timeout_seconds: float | None = None) -> bool:
        self._stopping = True
        self._wake()
        if self._alive and self.machine.stage.current() is not self._virtual:
            self._ended.wait_for(lambda: not self._alive, timeout_seconds)
        return not self._alive

    def is_alive(self) -> bool:
        return self._alive

    @property
    def ident(self) -> int | None:
        return None


class VirtualCondition:
    """A condition of virtual threads. Its lock is not needed: a virtual thread is never interrupted."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._waiting: dict[Any, Due] = {}

    def __enter__(self) -> VirtualCondition:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def wait(self, timeout: float | None = None) -> bool:
        stage = self._machine.stage
        thread = stage.current()
        self._waiting[thread] = self._machine.later(
            1e12 if timeout is None else timeout, lambda: self._time_out(thread)
        )
        return bool(stage.wait())

    def _time_out(self, thread: Any) -> None:
        del self._waiting[thread]
        self._machine.stage.go_on(thread, False)

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> bool:
        until = None if timeout is None else self._machine.stage.now + timeout
        while not predicate():
            left = None if until is None else until - self._machine.stage.now
            if left is not None and left <= 0:
                return False
            self.wait(left)
        return True

    def notify(self, n: int = 1) -> None:
        for thread in list(self._waiting)[:n]:
            self._waiting.pop(thread).cancelled = True
            self._machine.soon(lambda thread=thread: self._machine.stage.go_on(thread, True))  # type: ignore[misc]

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class VirtualLock:
    """A lock of virtual threads."""

    def __init__(self, machine: Machine) -> None:
        self._free = VirtualCondition(machine)
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        patience = 0.0 if not blocking else (None if timeout < 0 else timeout)
        if not self._free.wait_for(lambda: not self._held, patience):
            return False
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        self._free.notify()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
