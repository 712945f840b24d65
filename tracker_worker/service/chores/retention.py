# SPDX-License-Identifier: Apache-2.0
"""For how long rows of the inbox and of the outbox are kept."""

from __future__ import annotations

from typing import TypedDict

from oslo_config import cfg

from tracker_worker.bus.base import Bus
from tracker_worker.service.clock import Clock

PRUNE_SECONDS = 30


class Kept(TypedDict):
    """The arguments of ``EngineThread.prune``."""

    inbox_seconds: int
    keeps_inbox: bool
    outbox_seconds: int


class Retention:
    """Copies wait while this worker is disconnected or does not run, and arrive when it is back. However old they are by then,
    the inbox still knows their messages for as long as it knows a message whose copy comes immediately. One thread."""

    def __init__(self, conf: cfg.ConfigOpts, bus: Bus, clock: Clock) -> None:
        self._conf = conf
        self._bus = bus
        self._clock = clock
        self._connected_at: float | None = None

    def look(self) -> Kept:
        """What is to be kept now. Called every PRUNE_SECONDS."""
        now, retention = self._clock.monotonic(), self._conf.database.inbox_retention_seconds
        if not self._bus.connected():
            self._connected_at = None
        elif self._connected_at is None:
            self._connected_at = now
        settled = self._connected_at is not None and now - self._connected_at >= retention
        return Kept(
            inbox_seconds=retention,
            keeps_inbox=not settled,
            outbox_seconds=self._conf.notifications.retention_hours * 3600,
        )
