# SPDX-License-Identifier: Apache-2.0
"""The contract of every part that starts and stops: ``start`` is synchronous and may fail; ``stop`` returns when the part
has fully stopped, and has no effect without a start or a second time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

from tests.support.deadline import wait_until

_ROUNDS = 5
_DESCRIPTORS = "/proc/self/fd"


class Part(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


def stress(make: Callable[[], Part], *, rounds: int = _ROUNDS) -> None:
    """Start and stop parts from ``make`` in every allowed order; assert that no thread and no open file is left over."""
    # Objects that are created only once per process must not count.
    _start_and_stop(make())
    threads, files = set(threading.enumerate()), _open_files()

    never_started = make()
    never_started.stop()
    never_started.stop()
    for _ in range(rounds):
        _start_and_stop(make())
    together = [make() for _ in range(rounds)]
    for part in together:
        part.start()
    for part in together:
        part.stop()
    stopped_elsewhere = make()
    stopped_elsewhere.start()
    thread = threading.Thread(target=stopped_elsewhere.stop)
    thread.start()
    thread.join()
    stopped_elsewhere.stop()
    del never_started, together, stopped_elsewhere

    def left() -> set[threading.Thread]:
        return set(threading.enumerate()) - threads

    wait_until(lambda: not left(), lambda: f"threads that end: {left()}")
    assert _open_files() <= files


def _start_and_stop(part: Part) -> None:
    part.start()
    part.stop()
    part.stop()


def _open_files() -> int:
    return len(os.listdir(_DESCRIPTORS))
