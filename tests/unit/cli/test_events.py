# SPDX-License-Identifier: Apache-2.0
"""The main thread hears every event and every signal, at whatever moment it comes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tracker_worker.cli.events import Events


@pytest.fixture
def events() -> Iterator[Events[int]]:
    with closing(Events[int]()) as made:
        yield made


def test_events_come_in_order_and_each_once(events: Events[int]) -> None:
    for number in range(3):
        events.put(number)

    assert [events.get() for _ in range(3)] == [0, 1, 2]
    assert [events.get(0.001) for _ in range(4)] == [None] * 4


def test_an_event_ends_a_wait(events: Events[int]) -> None:
    threading.Timer(0.05, events.put, [7]).start()

    assert events.get() == 7


def test_more_events_than_the_socket_holds(events: Events[int]) -> None:
    for number in range(100_000):
        events.put(number)

    assert [events.get() for _ in range(100_000)] == list(range(100_000))


def test_no_signal_is_lost_between_the_last_look_and_the_wait() -> None:
    """On one processor beside others' work a queue had lost one signal in some hundred."""
    program = """
        import os, random, signal, sys, threading, time
        from tracker_worker.cli.events import Events

        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        events = Events()
        events.on_signals([signal.SIGUSR1], lambda number, frame: events.put(number))
        turn = threading.Semaphore(0)

        def kill():
            while turn.acquire():
                until = time.perf_counter() + random.random() * 1e-4
                while time.perf_counter() < until:
                    pass
                os.kill(os.getpid(), signal.SIGUSR1)

        threading.Thread(target=kill, daemon=True).start()
        # Busy: it takes the processor away from the main thread in the middle of its way to the wait.
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent:
                pass
            os._exit(0)
        for number in range(3000):
            turn.release()
            while events.get() is None:  # waits without end
                pass
        print("heard all")
        sys.stdout.flush()
        os._exit(0)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False
    )

    assert result.stdout == "heard all\n", result.stderr
