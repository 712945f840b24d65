# SPDX-License-Identifier: Apache-2.0
"""The operator who does what the log says: ``tracker-worker host adopt HOST``, where the marker of a host stays empty.

A process that dies between making a marker and writing it leaves an empty one, which keeps every worker away.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from oslo_config import cfg

from tests.simulation.broker import TOPIC, Broker
from tests.simulation.bus import SimulatedBus
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage
from tracker_worker.bus.base import MarkerUnavailable
from tracker_worker.service.chores.marker import take
from tracker_worker.store.base import Store

_LOOK_SECONDS = 5.0


class Adopter:
    """Looks every few seconds, and adopts a host whose marker was empty twice in a row, while nobody consumes its queue. A
    process that has made a marker and lives has to write it by itself."""

    def __init__(
        self, stage: Stage, broker: Broker, store: Callable[[], Store], hosts: list[str], conf: cfg.ConfigOpts
    ) -> None:
        self._machine = Machine(stage, "operator")
        self._broker = broker
        self._store = store
        self._hosts = hosts
        self._bus = SimulatedBus(broker, self._machine, conf)
        self._empty: set[str] = set()
        self._machine.later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        queues = ((host, self._broker.queues.get(f"{TOPIC}_ledger.{host}")) for host in self._hosts)
        empty = {host for host, queue in queues if queue and not queue.ready and queue.maker.crashed}
        for host in self._hosts:
            if host in empty and host in self._empty:
                self._machine.spawn(partial(self._adopt, host))
        self._empty = empty
        self._machine.later(_LOOK_SECONDS, self._look)

    def _adopt(self, host: str) -> None:
        store = self._store()
        [record] = [record for record in store.hosts() if record.name == host]
        try:
            with self._bus.markers() as markers:
                if not markers.consumers(host):
                    take(store, markers, store.histories(), record, new_token=self._new_token, force=True)
        except MarkerUnavailable:
            return  # the log will say so again

    def _new_token(self) -> str:
        return self._machine.random_bytes(16).hex()
