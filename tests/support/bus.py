# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the bus suite: the worker's side of a bus, and the clients' side of its broker."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.deadline import SECONDS
from tracker_worker.bus.base import Bus, Delivery, Listener, Publication, Refusal
from tracker_worker.wire.message import ReplyTo

HOST_1, HOST_2 = "host-1", "host-2"
HOSTS = (HOST_1, HOST_2)
STOP_SECONDS = 10.0


class RecordingListener:
    """Records deliveries, confirmed keys and the failure of a bus, and waits for them."""

    def __init__(self) -> None:
        self._told = threading.Condition()
        self.deliveries: list[Delivery] = []
        self.confirmed: list[Any] = []
        self.refused: list[Refusal] = []
        self.lost_after: list[int] = []  # for each lost connection, how many deliveries there were
        self.emptied: list[tuple[str, int]] = []  # host, and how many deliveries there were
        self.opened = 0
        self.deaths: list[BaseException] = []

    def as_listener(self) -> Listener:
        return Listener(
            received=self._adder(self.deliveries),
            opened=self._opened,
            lost=self._lost,
            confirmed=self._adder(self.confirmed),
            refused=self._adder(self.refused),
            died=self._died,
            emptied=self._emptied,
        )

    def _opened(self) -> None:
        with self._told:
            self.opened += 1
            self._told.notify_all()

    def _lost(self) -> None:
        with self._told:
            self.lost_after.append(len(self.deliveries))
            self._told.notify_all()

    def _emptied(self, host: str) -> None:
        with self._told:
            self.emptied.append((host, len(self.deliveries)))
            self._told.notify_all()

    def hear_empty(self, count: int) -> list[tuple[str, int]]:
        """Wait for ``count`` reports of an empty queue and return the first ``count``."""
        self._wait(lambda: len(self.emptied) >= count, lambda: f"{count} empty queues: {self.emptied}")
        return self.emptied[:count]

    def _adder(self, kept: list[Any]) -> Callable[[Sequence[Any]], None]:
        def add(told: Sequence[Any]) -> None:
            with self._told:
                kept.extend(told)
                self._told.notify_all()

        return add

    def _died(self, error: BaseException) -> None:
        with self._told:
            self.deaths.append(error)
            self._told.notify_all()

    def receive(self, count: int, *, source: str | None = None) -> list[Delivery]:
        """Wait for ``count`` deliveries, from ``source`` or from any source, and return the first ``count``."""
        self._wait(lambda: len(self._from(source)) >= count, lambda: f"{count} deliveries: {self._from(source)}")
        return self._from(source)[:count]

    def _from(self, source: str | None) -> list[Delivery]:
        return [delivery for delivery in self.deliveries if source is None or delivery.source == source]

    def confirm(self, count: int) -> list[Any]:
        """Wait for ``count`` confirmed keys and return the first ``count``."""
        self._wait(lambda: len(self.confirmed) >= count, lambda: f"{count} confirmed keys: {self.confirmed}")
        return self.confirmed[:count]

    def _wait(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        with self._told:
            there = self._told.wait_for(lambda: condition() or bool(self.deaths), SECONDS)
            assert not self.deaths
            assert there, f"not within {SECONDS:g} s: {what()}"


@dataclass(frozen=True)
class Letter:
    """A message as a program other than the worker reads it."""

    body: bytes
    headers: Mapping[str, Any]


class Outside(abc.ABC):
    """The programs around a bus: clients, notification listeners, and the reader of the dead-letter queue.

    The queues of ``HOSTS`` and the shared queue exist before any bus. The ``take_...`` methods wait for one message.
    """

    @abc.abstractmethod
    def bus(self) -> Bus:
        """A bus that is not started."""

    @abc.abstractmethod
    def publish(
        self,
        source: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        expires_seconds: float | None = None,
    ) -> None:
        """Publish a request to a host's queue, SHARED or FANOUT, with ``headers`` and expiration as a client sets them."""

    @abc.abstractmethod
    def open_replies(self) -> ReplyTo:
        """Create a reply queue and return its address."""

    @abc.abstractmethod
    def take_reply(self, reply_to: ReplyTo) -> bytes: ...

    @abc.abstractmethod
    def take_notification(self) -> bytes: ...

    @abc.abstractmethod
    def take_parked(self) -> Letter: ...


@dataclass(frozen=True)
class Worker:
    """A started bus and its recording listener."""

    bus: Bus
    listener: RecordingListener

    def stop(self) -> None:
        self.bus.stop(STOP_SECONDS)
        assert not self.listener.deaths


MakeWorker = Callable[..., Worker]


class BusCase(abc.ABC):
    """The base of the bus suite. An implementation provides ``outside``."""

    @pytest.fixture
    @abc.abstractmethod
    def outside(self) -> Outside:
        """An empty broker without consumers."""

    @pytest.fixture
    def make_worker(self, outside: Outside) -> Iterator[MakeWorker]:
        """Makes started buses, of HOST_1 by default, and stops those that still run afterwards."""
        made: list[Worker] = []

        def make(hosts: Sequence[str] = (HOST_1,), bus: Bus | None = None) -> Worker:
            worker = Worker(bus or outside.bus(), RecordingListener())
            made.append(worker)
            worker.bus.start(hosts, worker.listener.as_listener())
            return worker

        yield make
        for worker in made:
            worker.stop()

    @pytest.fixture
    def worker(self, make_worker: MakeWorker) -> Worker:
        """The only worker of most tests."""
        return make_worker()


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def numbered(count: int, first: int = 0) -> list[bytes]:
    """Numbered bodies, which show their order."""
    return [b"%d" % number for number in range(first, first + count)]


def outgoing(bodies: Sequence[bytes], *, priority: str = "INFO", topic: str = "notifications") -> list[Publication]:
    """Notifications whose keys are their bodies with the prefix k."""
    return [Publication(key=f"k{body.decode()}", topic=topic, priority=priority, bodies=(body,)) for body in bodies]


def keys(bodies: Sequence[bytes]) -> list[str]:
    return [sent.key for sent in outgoing(bodies)]
