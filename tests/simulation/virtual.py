# SPDX-License-Identifier: Apache-2.0
"""Threads and events of a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.machine import Machine


class VirtualThread:
    """Runs one function on a virtual thread."""

    def __init__(self, machine: Machine, target: Callable[[], object], died: Callable[[BaseException], None]) -> None:
        self._machine = machine
        self._target = target
        self._died = died
        self._alive = False
        self._ended = machine.condition()

    def start(self) -> None:
        self._alive = True
        self._machine.spawn(self._run)

    def _run(self) -> None:
        try:
            self._target()
        except Exception as error:  # noqa: BLE001 as the real one
            self._died(error)
        finally:
            self._alive = False
            self._ended.notify_all()

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait_for(lambda: not self._alive, timeout)

    def is_alive(self) -> bool:
        return self._alive


class VirtualEvent:
    """An event of virtual threads."""

    def __init__(self, machine: Machine) -> None:
        self._changed = machine.condition()
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._changed.notify_all()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._changed.wait_for(self.is_set, timeout)
