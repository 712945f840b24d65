# SPDX-License-Identifier: Apache-2.0
"""The watchdog in virtual time, and on real threads that hang at known places."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

import pytest

from tests.support.deadline import SECONDS, wait_until
from tracker_worker import threads
from tracker_worker.service import watchdog as module
from tracker_worker.service.watchdog import STORE_SECONDS, Watchdog, place
from tracker_worker.store import ledgers, memory

STALL = 30
PIECE = 0.25


@dataclass
class Thread:
    """A thread that turns when the test says so, and stands in ``frame``."""

    turns: int = 0
    ident: int | None = 1
    alive: bool = True
    frame: FrameType | None = None

    def is_alive(self) -> bool:
        return self.alive

    def frame_of(self, ident: int) -> FrameType | None:
        assert ident == self.ident
        return self.frame


@dataclass
class Case:
    """A watchdog, its thread, and what it has said."""

    thread: Thread = field(default_factory=Thread)
    said: list[str] = field(default_factory=list)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(
            self.thread,
            stall_seconds=STALL,
            stalled=self.said.append,
            died=lambda error: pytest.fail(str(error)),
            frame_of=self.thread.frame_of,
        )
        self.watchdog.step(self.now)

    def run(self, seconds: float, *, each: Callable[[], object] = lambda: None) -> None:
        """Let time pass in the pieces that the watchdog asks for."""
        until = self.now + seconds
        while self.now < until:
            self.now += self.watchdog.step(self.now)
            each()


def frame(*files: str) -> FrameType:
    """The innermost frame of functions that call each other, one in each of the files."""
    frames: list[FrameType] = []

    def call() -> None:
        frames.append(sys._getframe(1))

    for file in reversed(files):
        names: dict[str, Callable[[], None]] = {"call": call}
        exec(compile("def function():\n    call()\n", file, "exec"), names)
        call = names["function"]
    call()
    return frames[0]


def test_an_engine_that_turns_once_a_second_is_left_alone() -> None:
    case = Case()

    def turn() -> None:
        if case.now % 1 == 0:
            case.thread.turns += 1

    case.run(500, each=turn)

    assert case.said == []


def test_an_engine_that_stands_still_is_named_once_with_its_place() -> None:
    case = Case()
    case.thread.frame = frame(module.__file__)

    case.run(STALL - 1)
    assert case.said == []
    case.run(STALL)

    assert case.said == ["the engine has stood still for 30 s at tracker_worker/service/watchdog.py:2"]


def test_an_engine_that_stands_for_longer_than_a_turn_is_told_from_one_that_turns() -> None:
    case = Case()
    case.run(10)
    assert case.watchdog.stands(10) is None
    case.run(1)
    assert case.watchdog.stands(10) == pytest.approx(11, abs=PIECE)
    case.run(2 * STALL)
    assert case.watchdog.stands(10)  # also when the process was told to end
    case.thread.turns += 1
    case.run(PIECE)
    assert case.watchdog.stands(10) is None


def test_a_wait_for_the_store_within_its_limit_is_no_stand() -> None:
    case = Case()
    case.thread.frame = frame(module.__file__, memory.__file__)
    case.run(STORE_SECONDS + 10)
    assert case.watchdog.stands(10) is None
    case.run(1)
    assert case.watchdog.stands(10) == pytest.approx(STORE_SECONDS + 11, abs=PIECE)


def test_a_thread_that_is_not_watched_does_not_stand() -> None:
    case = Case()
    case.run(15)
    case.watchdog.stop()
    assert case.watchdog.stands(10) is None
    ended = Case()
    ended.thread.alive = False
    ended.run(15)
    assert ended.watchdog.stands(10) is None


def test_time_in_which_the_watchdog_did_not_run_does_not_count() -> None:
    case = Case()

    for _ in range(20):
        case.now += 3600  # the process was stopped
        case.watchdog.step(case.now)

    assert case.said == []


def test_an_engine_whose_thread_has_ended_is_left_alone() -> None:
    case = Case()
    case.thread.alive = False

    case.run(10 * STALL)

    assert case.said == []


def test_a_watchdog_that_was_stopped_says_nothing() -> None:
    case = Case()
    case.watchdog.stop()

    case.run(10 * STALL)

    assert case.said == []


def test_calls_of_the_store_within_its_limit_count_as_turning() -> None:
    case = Case()

    def another_call() -> None:
        if case.now % (STORE_SECONDS - 1) == 0:
            case.thread.frame = frame(module.__file__, memory.__file__)

    case.run(20 * STALL, each=another_call)

    assert case.said == []


def test_one_call_of_the_store_that_does_not_end_is_a_hang() -> None:
    case = Case()
    case.thread.frame = frame(module.__file__, memory.__file__)

    case.run(STALL + 2)

    assert case.said == ["the engine has stood still for 30 s at tracker_worker/store/memory.py:2"]


def test_a_short_stall_time_does_not_end_a_wait_for_the_store_within_its_limit() -> None:
    case = Case()
    watchdog = Watchdog(
        case.thread, stall_seconds=2, stalled=case.said.append, died=lambda error: None, frame_of=case.thread.frame_of
    )
    case.thread.frame = frame(module.__file__, memory.__file__)

    def look(seconds: float) -> None:
        for _ in range(int(seconds / PIECE)):
            case.now += PIECE
            watchdog.step(case.now)

    look(STORE_SECONDS - 1)
    assert case.said == []
    look(2)
    assert len(case.said) == 1


def test_several_calls_behind_the_ledgers_are_several_calls() -> None:
    case = Case()

    def another_call() -> None:
        if case.now % (STORE_SECONDS - 1) == 0:
            case.thread.frame = frame(module.__file__, ledgers.__file__, memory.__file__)

    case.run(20 * STALL, each=another_call)

    assert case.said == []


def test_a_thread_outside_of_the_package_stands_at_its_innermost_frame_within() -> None:
    assert place(frame(module.__file__, "/elsewhere/library.py")) == "tracker_worker/service/watchdog.py:2"


def test_a_thread_that_hangs_is_found_by_its_real_frames() -> None:
    hang = threading.Event()
    said: list[str] = []

    class Part:
        def step(self, now: float) -> float | None:
            hang.wait()
            return None

    engine = threads.StepThread("tracker-test", Part(), said.append)  # type: ignore[arg-type]
    watchdog = Watchdog(engine, stall_seconds=STALL, stalled=said.append, died=lambda error: None)
    engine.start()
    try:
        wait_until(lambda: engine.turns == 1, "the step begins")
        for number in range(int(STALL / PIECE) + 5):
            watchdog.step(number * PIECE)
        assert len(said) == 1
        assert said[0].startswith("the engine has stood still for 30 s at tracker_worker/threads.py:")
    finally:
        hang.set()
        assert engine.stop(SECONDS)


def test_an_idle_thread_turns_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_IDLE_SECONDS", 0.001)

    class Idle:
        def step(self, now: float) -> float | None:
            return None

    engine = threads.StepThread("tracker-test", Idle(), lambda error: None)
    engine.start()
    wait_until(lambda: engine.turns > 5, "turns without work")
    assert engine.stop(SECONDS)


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("tracker-engine", "tracker-engine"),
        ("tracker-publisher", "tracker-publish"),
        ("tracker-inventory-7", "tracker-inven-7"),
    ],
)
def test_the_system_knows_a_thread_by_a_name_of_fifteen_bytes(name: str, system: str) -> None:
    found: list[str] = []

    def look() -> None:
        with open(f"/proc/self/task/{threading.get_native_id()}/comm", encoding="utf-8") as comm:
            found.append(comm.read().strip())

    thread = threads.NamedThread(target=look, name=name)
    thread.start()
    thread.join(SECONDS)

    assert found == [system] == [threads.system_name(name)]
