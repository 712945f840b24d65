# SPDX-License-Identifier: Apache-2.0
"""The bus in memory keeps the contract."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from tests.conformance.bus import BusContract
from tests.conformance.markers import MarkersContract, ServeContract
from tests.support.bus import Letter, Outside
from tests.support.deadline import SECONDS
from tracker_worker.bus.base import Bus
from tracker_worker.bus.memory import MemoryBroker, MemoryBus
from tracker_worker.wire.message import ReplyTo


class MemoryOutside(Outside):
    def __init__(self) -> None:
        self._broker = MemoryBroker()
        self._replies: dict[str, queue.SimpleQueue[bytes]] = {}

    def bus(self) -> Bus:
        return MemoryBus(self._broker)

    def publish(
        self,
        source: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        expires_seconds: float | None = None,
    ) -> None:
        deadline = None if expires_seconds is None else time.monotonic() + expires_seconds
        self._broker.publish(source, body, headers=headers, deadline=deadline)

    def open_replies(self) -> ReplyTo:
        name = f"reply_{uuid4().hex}"
        self._replies[name] = queue.SimpleQueue()
        self._broker.open_replies(name, self._replies[name].put)
        return ReplyTo(name, uuid4().hex)

    def take_reply(self, reply_to: ReplyTo) -> bytes:
        return self._replies[reply_to.queue].get(timeout=SECONDS)

    def take_notification(self) -> bytes:
        return self._broker.notifications.get(timeout=SECONDS)

    def take_parked(self) -> Letter:
        parked = self._broker.parked.get(timeout=SECONDS)
        return Letter(parked.body, parked.headers)


class TestMemoryBus(BusContract, MarkersContract, ServeContract):
    @pytest.fixture
    def outside(self) -> Outside:
        return MemoryOutside()
