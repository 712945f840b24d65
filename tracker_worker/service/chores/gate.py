# SPDX-License-Identifier: Apache-2.0
"""What a connection delivers waits until its source is admitted on that connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from tracker_worker.bus.base import Delivery


class Gate:
    """Any thread may call the methods. ``connection`` rises with each connection that is opened or lost; ``is_lost``: there is
    none. What waits is unsettled, so that the bus limits its bytes."""

    def __init__(
        self, received: Callable[[Sequence[Delivery]], None], waited: Callable[[Sequence[Delivery]], None]
    ) -> None:
        """``received`` gets the deliveries of admitted sources, those of each source in order, and ``waited``, which returns
        immediately, those that have waited."""
        self._received = received
        self._waited = waited
        self._lock = threading.Lock()
        self._admitted: frozenset[str] = frozenset()
        self._held: dict[str, list[Delivery]] = {}
        self._emptied: set[str] = set()  # of those, the sources that were found empty meanwhile
        self.connection = 0
        self.is_lost = False

    def received(self, deliveries: Sequence[Delivery]) -> bool:
        """Pass on what may pass. Returns whether something waits."""
        for delivery in deliveries:
            if delivery.source not in self._admitted:
                break
        else:
            self._received(deliveries)
            return False
        with self._lock:
            ready = []
            for delivery in deliveries:
                if delivery.source in self._admitted:
                    ready.append(delivery)
                else:
                    self._held.setdefault(delivery.source, []).append(delivery)
            waits = bool(self._held)
        if ready:  # without the lock: they may be decided here, which may take as long as the store does
            self._received(ready)
        return waits

    def waits(self, source: str) -> bool:
        """Whether deliveries of the source wait."""
        return source in self._held

    def waiting(self) -> frozenset[str]:
        """The sources whose deliveries wait."""
        with self._lock:
            return frozenset(self._held)

    def held(self) -> tuple[int, int]:
        """The number of deliveries that wait, and of the bytes of their bodies."""
        with self._lock:
            bodies = [len(delivery.body) for held in self._held.values() for delivery in held]
        return len(bodies), sum(bodies)

    def emptied(self, source: str) -> bool:
        """The source was found empty. Returns whether everything that had come from it was passed on; if not, ``admit`` says
        so."""
        with self._lock:
            if source in self._held:
                self._emptied.add(source)
            return source not in self._held

    def admits(self, source: str) -> bool:
        """Whether the source is admitted on the present connection."""
        return source in self._admitted

    def admit(self, source: str, connection: int) -> bool:
        """Pass on what has come from the source over the connection, and let the rest pass. Does nothing if the connection is
        not the present one. Returns whether the source was found empty while something waited."""
        with self._lock:
            if connection != self.connection or source in self._admitted:
                return False
            held = self._held.pop(source, None)
            if held:
                self._waited(held)  # before anything that comes now
            self._admitted |= {source}
            emptied = source in self._emptied
            self._emptied.discard(source)
            return emptied

    def opened(self) -> None:
        """There is a new connection. Nothing is admitted on it."""
        with self._lock:
            self._begin()
            self.is_lost = False

    def lost(self) -> None:
        """The connection is gone, and what waits comes again."""
        with self._lock:
            self._begin()
            self.is_lost = True

    def _begin(self) -> None:
        self.connection += 1
        self._admitted = frozenset()
        self._held.clear()
        self._emptied.clear()
