# SPDX-License-Identifier: Apache-2.0
"""The schedulers of tests/support on virtual threads: half of them know only version 1.0 of the RPC API."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from random import Random
from typing import Any

from tests.invariants.record import UNKNOWN, Place, Request
from tests.simulation.client import Client
from tests.simulation.machine import Machine
from tests.support.moving_traffic import MovingScheduler
from tests.support.traffic import Scheduler

_SCHEDULERS = 4
"""So many share one client."""
_COPIED, _OLD = 0.03, 0.01
_MOST_ATTEMPTS = 9
_AUDITS = 0.2
"""The audits that each client asks for in a second."""


class Caller:
    """A client as a virtual thread uses it: a call waits for its answer, and a cast until the broker has it."""

    def __init__(self, machine: Machine, client: Client, stopped: Callable[[], bool]) -> None:
        self._stage = machine.stage
        self._client = client
        self._stopped = stopped
        self.audits = 0

    def call(self, host: str | None, method: str, /, **arguments: Any) -> Request:
        thread = self._stage.current()
        self._client.call(host, method, lambda request: self._stage.go_on(thread, request), **arguments)
        request: Request = self._stage.wait()
        return request

    def cast(self, host: str | None, method: str, /, **arguments: Any) -> None:
        """What is on its way for long is not waited for."""
        self._client.cast(host, method, **arguments)

    def insist(self, host: str | None, method: str, /, **arguments: Any) -> Request:
        """Repeat a call that gets no answer, as a scheduler would. Each repetition is another message."""
        for _ in range(_MOST_ATTEMPTS):
            request = self.call(host, method, **arguments)
            if self._stopped() or (request.outcome != UNKNOWN and request.error != "store_unavailable"):
                break
        return request


class Traffic:
    """Schedulers that send ``rate`` requests a second together, until ``stop``."""

    def __init__(
        self,
        machine: Machine,
        clients: Sequence[Client],
        *,
        seed: object,
        rate: float,
        places: Sequence[Place],
        tight: Sequence[Place],
        moves: Sequence[tuple[Place, Place]],
        apart: Collection[str] = (),
    ) -> None:
        """``tight`` and ``moves``: see ``Scheduler``; ``apart``: see ``MovingScheduler``."""
        self._machine = machine
        self._stopped = False
        self._goes_on_at = 0.0
        for client in clients:
            client.copied, client.old = _COPIED, _OLD
            caller = Caller(machine, client, lambda: self._stopped)
            for number in range(_SCHEDULERS):
                name = f"{client.name}-{number}"
                kind = MovingScheduler if number % 2 else Scheduler
                scheduler = kind(
                    caller,
                    name=name,
                    seed=seed,  # type: ignore[arg-type]
                    places=places,
                    tight=tight,
                    moves=moves,
                )
                if isinstance(scheduler, MovingScheduler):
                    scheduler.apart = apart
                random = Random(f"{seed}-{name}-pauses")
                self._start(scheduler.step, random, rate / len(clients) / _SCHEDULERS)
            self._start(partial(_audit, caller, places), Random(f"{seed}-{client.name}-audits"), _AUDITS)

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopped = True

    def pause(self, seconds: float) -> None:
        """Begin nothing new for so long."""
        self._goes_on_at = self._machine.stage.now + seconds

    def _start(self, step: Callable[[], object], random: Random, rate: float) -> None:
        def run() -> None:
            while not self._stopped:
                self._machine.sleep(random.expovariate(rate))
                if not self._stopped and self._machine.stage.now >= self._goes_on_at:
                    step()

        self._machine.spawn(run)


def _audit(caller: Caller, places: Sequence[Place]) -> None:
    """Ask for an audit of a host, and wait for it."""
    caller.audits += 1
    caller.call(places[caller.audits % len(places)][0], "update_available_resource")
