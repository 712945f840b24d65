# SPDX-License-Identifier: Apache-2.0
"""A worker in its place: its processes come and go, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from oslo_config import cfg

from tests.simulation.bus import SimulatedBus
from tests.simulation.database import Database
from tests.simulation.hardware import Mood, SimulatedDriver
from tests.simulation.machine import Machine
from tests.simulation.stage import Due
from tests.simulation.store import Link
from tests.simulation.watch import Violation
from tracker_worker.conf import register_opts
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.first_audit import StartCancelled
from tracker_worker.service.worker import Worker
from tracker_worker.store.base import StoreReplaced
from tracker_worker.store.ledgers import Seen

if TYPE_CHECKING:
    from tests.simulation.world import World

LOG = logging.getLogger(__name__)

_RESTART_SECONDS = 2.0
_AUDIT_SECONDS = 10
_STOPS = frozenset(("stop", "newcomer", "start", "crash"))
_SETTLES_SECONDS = 10.0
"""What has happened so long ago is in the way of no worker that stops, unless it goes on."""


class Site:
    """One worker on its machine. ``worker`` None: it does not run."""

    def __init__(self, world: World, name: str, hosts: Sequence[str], *, database: Database | None = None) -> None:
        """``database`` None: that of the world."""
        self.world = world
        self.name = name
        self.hosts = hosts
        self.machine = Machine(world.stage, name)
        self.bus: SimulatedBus | None = None
        self.worker: Worker | None = None
        self.link = Link()
        self.moods: dict[str, Mood] = {}
        """How its drivers behave, by host."""
        self.crashes_at: list[str] = []
        """Where its next processes crash, the last one first."""
        self._database = database
        self._start: Due | None = None
        self.stopping = False
        self.gone = False
        """Whether it never starts again."""

    @property
    def starts(self) -> bool:
        """Whether it is about to start."""
        return self._start is not None

    def start(self) -> None:
        world = self.world
        self._start, self.stopping = None, False
        if self.gone or not self.hosts:
            return
        world.judge.started()
        self.machine = Machine(world.stage, self.name)
        self.machine.crash_there = partial(self.restart, _RESTART_SECONDS)
        self.machine.crashes_at = self.crashes_at.pop() if self.crashes_at else None
        conf = configured(self.hosts, world.broker.topics, world.prefetch, world.period)
        self.bus = SimulatedBus(world.broker, self.machine, conf)
        self.worker = Worker(
            conf,
            bus=self.bus,
            store=world.linked(self.machine, self.link, self._database),
            drivers=partial(self._driver, self.machine),
            clock=self.machine.clock,
            runtime=self.machine,
            died=self._died,
            stalled=lambda sentence: self.restart(_RESTART_SECONDS),
        )
        self.machine.spawn(partial(self._run, self.worker))

    def _driver(self, machine: Machine, host: str) -> SimulatedDriver:
        return SimulatedDriver(host, machine, self.world.hardware, self.moods.setdefault(host, Mood()))

    def _run(self, worker: Worker) -> None:
        try:
            worker.start()
        except (ConfigurationError, StartCancelled, StoreReplaced) as error:
            LOG.warning("%s does not start: %s", self.name, error)
            self.restart(_RESTART_SECONDS)

    def _died(self, error: BaseException) -> None:
        if not isinstance(error, StoreReplaced):
            self.world.deaths.append(error)
        self.restart(_RESTART_SECONDS)

    def restart(self, seconds: float) -> None:
        """Kill the process, and start another one after so many seconds."""
        self.crash()
        if self._start is not None:
            self._start.cancelled = True
        self._start = self.world.stage.later(seconds, self.start)

    def stop(self, ended: Callable[[], object]) -> None:
        """End the process as SIGTERM does; then ``ended`` is called. It is not called if the process ends in another way.

        Raises Violation on the process's thread: where nothing is in its way, the worker has not sent everything in time.
        """
        worker, bus, stage = self.worker, self.bus, self.world.stage
        assert worker is not None
        assert bus is not None

        self.stopping = True
        began, troubles = stage.now, self.world.judge.troubles
        calm = self.world.undisturbed() and bus.is_whole()

        def run() -> None:
            worker.stop()
            passed = stage.now - began
            calls = worker._engine._audits._calls._waiting
            if calls and not worker._engine.thread.is_alive():
                raise Violation(f"{self.name} stops, and {len(calls)} calls that wait for an audit are told nothing")
            if calm and troubles.none_but(_STOPS, began - _SETTLES_SECONDS):
                if bus.unsent() or passed > worker._stop_seconds:
                    raise Violation(f"{self.name} stops after {passed:.3f} s with {bus.unsent()} bytes to send")
                owner = worker._engine._leases._owner
                if not worker._engine.thread.is_alive() and (
                    kept := [host.name for host in self.world.store.hosts() if host.lease_owner == owner]
                ):
                    raise Violation(f"{self.name} stops, and keeps the leases of {kept}")
            self.crash()
            ended()

        self.machine.spawn(run)

    def works(self) -> bool:
        """Whether the worker is ready, its process goes on, and its connection is whole."""
        if self.worker is None or self.bus is None or self.machine.paused() or self.machine.hung:
            return False
        return self.bus.is_whole() and self.worker.ready()

    def seen(self) -> Mapping[int, Seen]:
        """What the worker has seen of the database: node id -> how far it had got."""
        return {} if self.worker is None else self.worker._engine._ledgers.seen

    def crash(self) -> None:
        """End the process at once."""
        self.world.judge.troubles.happened("crash")
        self.machine.crash()
        bus, self.bus, self.worker = self.bus, None, None
        if bus is not None:
            bus.network.end()


def configured(
    hosts: Sequence[str], topics: Sequence[str], prefetch: int | None = None, period: str = "hour"
) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], project="tracker-worker", default_config_files=[])
    conf.set_override("transport_url", "rabbit://guest:guest@broker:5672/")
    conf.set_override("hosts", list(hosts), group="tracker")
    conf.set_override("topics", list(topics), group="notifications")
    conf.set_override("usage_audit_period", period, group="notifications")
    conf.set_override("inventory_driver", "fake", group="tracker")
    conf.set_override("audit_interval_seconds", _AUDIT_SECONDS, group="tracker")
    conf.set_override("connection", "sqlite://", group="database")
    conf.set_override("listen", "", group="health")
    if prefetch is not None:
        conf.set_override("prefetch", prefetch, group="bus")
    return conf
