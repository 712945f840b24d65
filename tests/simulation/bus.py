# SPDX-License-Identifier: Apache-2.0
"""The real bus of a worker, and py-amqp under it, on the sockets of the simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import amqp
from amqp.transport import TCPTransport
from oslo_config import cfg

from tests.simulation.broker import Broker
from tests.simulation.machine import Machine
from tests.simulation.sockets import CONNECT_SECONDS, Network, VirtualSystem
from tracker_worker.bus.amqp.bus import AMQPBus
from tracker_worker.bus.amqp.outgoing import Message
from tracker_worker.bus.base import DeadLetter, Listener
from tracker_worker.bus.settings import BrokerSettings, read_settings


class _Transport(TCPTransport):
    """A transport of py-amqp over a socket of the simulation."""

    def __init__(self, network: Network) -> None:
        super().__init__("broker:5672")
        self._network = network

    def _connect(self, host: str, port: int, timeout: float) -> None:
        self.sock = self._network.connect()

    def _set_socket_options(self, socket_settings: Any) -> None:
        """There are no options."""


class SimulatedConnection(amqp.Connection):
    """A connection of py-amqp whose network and clock are those of a machine."""

    def __init__(self, network: Network, heartbeat: int) -> None:
        super().__init__("broker:5672", login_method="PLAIN", heartbeat=heartbeat, connect_timeout=CONNECT_SECONDS)
        self._network = network
        self._clock = network.machine.monotonic

    def Transport(self, *_: Any, **__: Any) -> _Transport:
        return _Transport(self._network)

    def heartbeat_tick(self, rate: int = 2) -> None:
        """As py-amqp, in virtual time."""
        now = self._clock()
        if self.bytes_sent != self.prev_sent:
            self.last_heartbeat_sent = now
        if self.bytes_recv != self.prev_recv:
            self.last_heartbeat_received = now
        if now > self.last_heartbeat_sent + self.heartbeat / rate:
            self.send_heartbeat()
            self.last_heartbeat_sent = now
        self.prev_sent, self.prev_recv = self.bytes_sent, self.bytes_recv
        if now > self.last_heartbeat_received + 2 * self.heartbeat:
            raise amqp.exceptions.ConnectionForced("Too many heartbeats missed")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSettings(BrokerSettings):
    """Settings whose connections are simulated."""

    network: Network

    def connection(self, url: str) -> amqp.Connection:
        return SimulatedConnection(self.network, self.heartbeat_seconds)


class SimulatedBus(AMQPBus):
    """``network``: its connections."""

    def __init__(self, broker: Broker, machine: Machine, conf: cfg.ConfigOpts) -> None:
        self.network = Network(broker, machine)
        said = read_settings(conf)
        options = {field.name: getattr(said, field.name) for field in fields(BrokerSettings)}
        super().__init__(SimulatedSettings(**options, network=self.network), VirtualSystem(machine))

    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        super().start(hosts, listener)
        made = self.sender._dead_letter

        def noted(item: DeadLetter) -> Message:
            self.network.broker.refused.append(item.delivery.body)
            return made(item)

        self.sender._dead_letter = noted  # type: ignore[method-assign]

    def is_whole(self) -> bool:
        """Whether both connections are open, and neither of them is gone without being noticed."""
        return self._open() and not any(sock.cut for sock in self.network.sockets)

    def unsent(self) -> int:
        """How many bytes are to be published and not confirmed, but for those that wait for a queue which does not take them: a
        worker that stops does not wait for it."""
        if not self._started:
            return 0
        held = (each.waits()[1] for each in self.sender._destinations.by_key.values() if each.held)
        return self.sender.waiting_bytes() - sum(held)
