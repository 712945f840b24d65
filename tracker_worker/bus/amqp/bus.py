# SPDX-License-Identifier: Apache-2.0
"""The bus on RabbitMQ: one connection that consumes and one that publishes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager

from oslo_config import cfg

from tracker_worker.bus.amqp import markers
from tracker_worker.bus.amqp.addresses import shared_addresses
from tracker_worker.bus.amqp.consumer import Consumer
from tracker_worker.bus.amqp.durability import Durability
from tracker_worker.bus.amqp.probes import Probes
from tracker_worker.bus.amqp.sender import AMQPSender
from tracker_worker.bus.amqp.system import SYSTEM, System
from tracker_worker.bus.base import Blocked, Bus, Contact, Listener, Markers
from tracker_worker.bus.settings import BrokerSettings, address, read_again, read_connection, with_logins_of
from tracker_worker.errors import ConfigurationError

LOG = logging.getLogger(__name__)


class AMQPBus(Bus):
    """Stopping it publishes first and acknowledges last: a reply must be safe before its request is acknowledged."""

    receiver: Consumer
    sender: AMQPSender

    def __init__(self, settings: BrokerSettings, system: System = SYSTEM) -> None:
        self._settings = settings
        self._system = system
        self.hold_seconds = settings.heartbeat_seconds / 2
        # The two connections share the list, so that both are to the same broker if it is there.
        self._addresses = shared_addresses(settings)
        self._started = False
        self._probed_over: float | None = None  # when the publishing connection was opened over which probes go
        self._not_probed_at = float("-inf")
        self._serving: Collection[str] | None = None

    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        durability = Durability(self._settings)
        self.receiver = Consumer(
            self._settings,
            hosts,
            received=listener.received,
            lost=listener.lost,
            emptied=listener.emptied,
            opened=listener.opened,
            died=listener.died,
            addresses=self._addresses,
            system=self._system,
            durability=durability,
        )
        self.sender = AMQPSender(
            self._settings,
            # A request occupies its place in a queue's prefetch until its reply is confirmed: half of the places may wait.
            confirm_threshold=self._settings.prefetch // max(1, len(hosts)) // 2,
            settle=self.receiver.settle,
            confirmed=listener.confirmed,
            refused=listener.refused,
            died=listener.died,
            addresses=self._addresses,
            system=self._system,
            durability=durability,
        )
        self._probes = Probes(
            self._settings,
            submit=self.sender.submit,
            unreachable=self.receiver.repair,
            monotonic=self._system.monotonic,
            random_bytes=self._system.runtime.random_bytes,
        )
        if self._serving is not None:
            self.receiver.serve(self._serving)
        self._started = True
        self.sender.start()
        self.receiver.start()

    def serve(self, hosts: Collection[str]) -> None:
        self._serving = hosts
        if self._started:
            self.receiver.serve(hosts)

    def markers(self) -> AbstractContextManager[Markers]:
        return markers.opened(
            self._settings, [self._addresses.url(number) for number in self._addresses.round()], self._system
        )

    def pause(self) -> None:
        if self._started:
            self.receiver.pause()

    def stop(self, timeout_seconds: float) -> None:
        if self._started:
            self.sender.stop(timeout_seconds)
            self.receiver.stop(timeout_seconds)

    def connected(self) -> bool:
        return self._open() and self.receiver.serves_all()

    def probe(self, hosts: Sequence[str]) -> None:
        # Otherwise everything is declared when it is open again. Under an alarm the broker takes no probe.
        if not self._started or not self._open() or self.sender.blocked() is not None:
            self._not_probed_at = self._system.monotonic()
            return
        if self.sender.opened_at != self._probed_over:
            self._probed_over = self.sender.opened_at
            self._probes.forget()
        self._probes.probe(hosts)
        self.receiver.look_at_fanout()

    def contact(self) -> Contact:
        brokers = tuple(address(url).rstrip("/") for url in self._addresses.urls())
        if not self._started:
            return Contact(brokers=brokers, consuming=False, publishing=False)
        opened = [self.receiver.opened_at, self.sender.opened_at]
        probed = [at for at in opened if at is not None] if self.sender.blocked() is None else []
        return Contact(
            brokers=brokers,
            consuming=self.receiver.is_open(),
            publishing=self.sender.is_open(),
            problem=self.receiver.problem or self.sender.problem,
            consumed=self.receiver.consumed(),
            heard=dict(self.receiver.heard),
            probed_since=max(*probed, self._not_probed_at) if len(probed) == len(opened) else None,
            holds_back=self.receiver.holds_back(),
            silent_since=self._probes.silent_since() if self.sender.opened_at == self._probed_over else None,
        )

    def repair(self) -> None:
        if self._started:
            self.sender.repair()
            self.receiver.repair()

    def report_empty(self, hosts: Sequence[str]) -> None:
        if self._started:
            self.receiver.report_empty(hosts)

    def _open(self) -> bool:
        return self._started and self.receiver.is_open() and self.sender.is_open()

    def blocked(self) -> Blocked | None:
        return self.sender.blocked() if self._started else None

    def reload(self, conf: cfg.ConfigOpts) -> None:
        try:
            fresh = read_connection(read_again(conf))
        except ConfigurationError as error:
            LOG.error("user and password of the broker are not read again: %s", error)
            return
        urls = self._addresses.urls()
        renewed = with_logins_of(fresh.urls, urls)
        if [address(url) for url in fresh.urls] != [address(url) for url in urls] or not fresh.agrees_with(
            self._settings
        ):
            LOG.warning(
                "how the broker is reached has changed in more than user and password (brokers, virtual host, options): the "
                "rest of [DEFAULT] transport_url needs a restart"
            )
        if renewed != urls:
            LOG.info("user or password of the broker have changed: connecting again")
            self._addresses.replace(renewed)
            if self._started:
                self.sender.renew()
                self.receiver.renew()
        self.repair()

    def queues(self) -> Mapping[str, tuple[int, int]]:
        if not self._started:
            return {}
        return {
            "unsettled": (self.receiver.unsettled(), self.receiver.unsettled_bytes()),
            "publishing": (self.sender.waiting(), self.sender.waiting_bytes()),
        }

    def figures(self) -> Mapping[str, int]:
        if not self._started:
            return {}
        return {
            "consuming_connected": int(self.receiver.is_open()),
            "publishing_connected": int(self.sender.is_open()),
            "consuming_reconnects": self.receiver.reconnects(),
            "publishing_reconnects": self.sender.reconnects(),
            "unsettled_bytes": self.receiver.unsettled_bytes(),
            "publishing_bytes": self.sender.waiting_bytes(),
            "dropped_replies": self.sender.dropped_replies,
            "refused_messages": self.sender.refused_messages,
        }
