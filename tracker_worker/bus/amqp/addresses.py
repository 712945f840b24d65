# SPDX-License-Identifier: Apache-2.0
"""In which order the broker's addresses are tried, and how long to wait between rounds.

The connections of one bus share one ``Addresses``, so that they meet at the same broker and one of them learns from the other.
Each connection has its own ``Visitor``. Neither reads a clock: times are arguments, in seconds on the monotonic clock.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from tracker_worker.bus.settings import ConnectionSettings

ROUND_SECONDS = 1.0
"""Rounds begin at least this far apart: the wait after a round without a connection, and what keeps a connection that ends as
soon as it is open from being opened again and again without a pause."""
_SLOW_SECONDS = 1.0
_SHORT_LIFE_SECONDS = 5.0
_SEED = random.randrange(2**32)


def shared_addresses(settings: ConnectionSettings) -> Addresses:
    """The broker's addresses for the connections of one bus. Their order is the same for the life of the process, and differs
    between processes."""
    shuffle = random.Random(f"{_SEED} {os.getpid()}").shuffle
    return Addresses(settings.urls, shuffle=shuffle, delays=settings.delays)


class Addresses:
    """The broker's addresses, by number in the order in which they were given. Any thread may call the methods.

    A round begins with the address that is known to be good, then follows the order, which is shuffled once. An address whose
    failure took longer than a second goes to its end.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        shuffle: Callable[[list[int]], None],
        delays: Callable[[], Iterator[float]],
    ) -> None:
        """``delays`` makes the waits after rounds in which a broker refused the login."""
        self._lock = threading.Lock()
        self._urls = list(urls)
        self._order = list(range(len(self._urls)))
        shuffle(self._order)
        self._good: int | None = None
        self._unresolved: set[int] = set()
        self._delays = delays

    def visitor(self) -> Visitor:
        """The way of one connection through the addresses."""
        return Visitor(self, self._delays)

    def url(self, number: int) -> str:
        with self._lock:
            return self._urls[number]

    def urls(self) -> list[str]:
        """All URLs, in the order in which they were given."""
        with self._lock:
            return list(self._urls)

    def replace(self, urls: Sequence[str]) -> None:
        """Use other URLs for the same addresses: user and password have changed."""
        with self._lock:
            self._urls = list(urls)

    def round(self) -> list[int]:
        """The addresses in the order in which they are to be tried now."""
        with self._lock:
            return sorted(self._order, key=lambda number: number != self._good)

    def good(self) -> int | None:
        """The address at which a connection was opened last, until it fails."""
        return self._good

    def succeeded(self, number: int) -> None:
        with self._lock:
            self._good = number
            self._unresolved.discard(number)

    def failed(self, number: int, seconds: float) -> None:
        """No connection to the address was opened, which took so long."""
        with self._lock:
            if self._good == number:
                self._good = None
            if seconds >= _SLOW_SECONDS:
                self._order.remove(number)
                self._order.append(number)

    def is_news(self, number: int) -> bool:
        """The name of the address does not resolve. Returns whether this is said for the first time since a connection to the
        address was opened."""
        with self._lock:
            known = number in self._unresolved
            self._unresolved.add(number)
            return not known


class Visitor:
    """One connection's way through the addresses: in rounds, waiting only after a round. Belongs to the connection's thread.

    ``take``, then ``failed``, or ``opened`` and later ``ended``; then again from the start, when ``due_in`` has passed.
    """

    def __init__(self, addresses: Addresses, delays: Callable[[], Iterator[float]]) -> None:
        self._addresses = addresses
        self._new_delays = delays
        self._delays = delays()
        self._left: deque[int] = deque()
        self._round_began = 0.0
        self._next_round = 0.0
        self._login_refused = False
        self._failures: Counter[int] = Counter()

    def due_in(self, now: float) -> float:
        """Seconds until the next address is to be tried."""
        return 0.0 if self._left else max(0.0, self._next_round - now)

    def take(self, now: float) -> int:
        """The address to try next. Within a round, one that another connection found to be good comes first."""
        if not self._left:
            self._left.extend(self._addresses.round())
            self._round_began = now
            self._login_refused = False
        good = self._addresses.good()
        if good is not None and good in self._left:
            self._left.remove(good)
            return good
        return self._left.popleft()

    def opened(self, number: int) -> None:
        """The connection to the address is open."""
        self._addresses.succeeded(number)
        self._failures[number] = 0
        self._login_refused = False
        self._delays = self._new_delays()

    def failed(self, number: int, now: float, *, seconds: float, login_refused: bool) -> int:
        """No connection to the address was opened, which took ``seconds``. Returns how often this happened in a row."""
        self._addresses.failed(number, seconds)
        self._login_refused |= login_refused
        self._failures[number] += 1
        self._end_round_if_over(now)
        return self._failures[number]

    def ended(self, number: int, now: float, *, seconds: float) -> None:
        """The connection to the address has ended after ``seconds``. After a short life, the other addresses are tried before
        it; otherwise it is opened again immediately."""
        if seconds < _SHORT_LIFE_SECONDS:
            self._addresses.failed(number, 0.0)
            self._end_round_if_over(now)
        else:
            self.restart(now)

    def restart(self, now: float) -> None:
        """Begin a new round now."""
        self._left.clear()
        self._next_round = now

    def _end_round_if_over(self, now: float) -> None:
        if not self._left:
            self._next_round = now + next(self._delays) if self._login_refused else self._round_began + ROUND_SECONDS
