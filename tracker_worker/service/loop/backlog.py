# SPDX-License-Identifier: Apache-2.0
"""The items that are to be decided: in common, and by themselves those of a host that other workers or the store hold up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.requests.items import (
    AT_A_TIME,
    Item,
    host_of,
    is_alone,
    is_of_many,
    request_of,
)
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.base import HostLocked

_FIRST_DELAY_SECONDS = 0.05
_LONGEST_DELAY_SECONDS = 2.0
# What is decided and committed together.
_MOST_ITEMS = 1000
_MOST_BYTES = 4 << 20


class Lane:
    """Items that are decided in order, as many together as a commit takes, and the time of their next attempt.

    ``host`` None: the items of all hosts that nothing holds up. ``lost_races``: the conflicts in a row. ``unavailable``: the
    error of the last attempt, if the store was unavailable to it; ``attempt_seconds``: how long that attempt took.
    ``locked_since``: when the first attempt began since which each has found rows of the host locked by another session; None:
    the last one has not. Times are in seconds on the monotonic clock. ``level``: how loudly the log says that the lane waits:
    an outage is said elsewhere, another program that holds rows of the host is not."""

    def __init__(self, host: str | None, *, most: int = _MOST_ITEMS) -> None:
        """``most``: of so many items an attempt is made together."""
        self.host = host
        self.items: list[Item] = []
        self._most = self._usual = most
        self._doubtful = 0
        self.level = logging.INFO
        self._reset()

    def _reset(self) -> None:
        """Nothing has failed yet."""
        self.lost_races = 0
        self.resume_at = 0.0
        self.attempt_seconds = 0.0
        self.unavailable: StoreUnavailable | None = None
        self.locked_since: float | None = None
        self._delay = _FIRST_DELAY_SECONDS

    @property
    def in_doubt(self) -> bool:
        """Whether an attempt at items that are still here may have reached the store without the worker's knowledge."""
        return self._doubtful > 0

    def next(self) -> list[Item]:
        """The items of the next attempt, which begins now."""
        taken = self.items[: self._most]
        size = 0
        for count, item in enumerate(taken):
            request = request_of(item)
            size += 0 if request is None else len(request.delivery.body)
            if size > _MOST_BYTES or is_alone(item):
                taken = taken[: max(1, count)]
                break
        self._doubtful = max(self._doubtful, len(taken))
        self.unavailable = None
        return taken

    def finish(self, items: Sequence[Item]) -> None:
        """The items that ``next`` returned are decided and committed."""
        del self.items[: len(items)]
        self._doubtful = max(0, self._doubtful - len(items))
        self._reset()
        if not self.items:
            self._most = self._usual

    def halve(self, items: Sequence[Item]) -> None:
        """These items could not be stored together: attempt half as many."""
        self._most = max(1, len(items) // 2)

    def whole_again(self) -> None:
        """The item that could not be stored is gone: attempt as many as usual."""
        self._most = self._usual

    def keep(self, wanted: Callable[[Item], bool]) -> int:
        """Drop the items that are not ``wanted``. Returns the number of dropped items."""
        before = len(self.items)
        self._doubtful = sum(1 for item in self.items[: self._doubtful] if wanted(item))
        self.items = [item for item in self.items if wanted(item)]
        if not self.items:
            self._reset()
        return before - len(self.items)

    def store_unavailable(self, error: StoreUnavailable, began: float, now: float) -> float:
        """The attempt that began at ``began`` failed: pause. Returns the seconds of the pause."""
        is_new = isinstance(error, HostLocked) and self.locked_since is None
        self.level = logging.WARNING if is_new else logging.INFO
        self.unavailable = error
        self.attempt_seconds = now - began
        if not isinstance(error, HostLocked):
            self.locked_since = None
        elif self.locked_since is None:
            self.locked_since = began
        return self.pause(now)

    def pause(self, now: float) -> float:
        """Try again after a pause, which is longer each time. Returns the seconds."""
        delay = self._delay
        self._delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
        self.resume_at = now + delay
        return delay


class Backlog:
    """All items that are not finished.

    All items are decided together in ``common``. When that fails because of one of its hosts, ``split`` gives each host a lane
    of its own, until the lane is empty. While anything is held up, items that need no ledger are in ``free``. Questions about
    many hosts are in ``wide``: a few of their hosts have their turn after each batch of the others.

             add          committed
    nothing -----> common -----------------------------> nothing
                     |  split             committed
                     +--------> host's lane -----------> nothing
    """

    def __init__(self) -> None:
        self.free = Lane(None)
        self.common = Lane(None)
        self.wide = Lane(None, most=AT_A_TIME)
        self._hosts: dict[str, Lane] = {}

    def __len__(self) -> int:
        return sum(len(lane.items) for lane in self.lanes())

    @property
    def is_held_up(self) -> bool:
        """Whether some items wait because an attempt at them has failed."""
        return bool(self._hosts) or self.common.unavailable is not None

    def locked(self) -> dict[str, float]:
        """Host -> since when its rows have been locked by another session, while something waits for them. Any thread."""
        return {
            lane.host: lane.locked_since
            for lane in self.lanes()
            if lane.host is not None and lane.locked_since is not None
        }

    @property
    def in_doubt(self) -> bool:
        """Whether a batch waits for the store, whose commit may have succeeded without the worker's knowledge."""
        return any(lane.in_doubt for lane in self.lanes())

    def items(self) -> list[Item]:
        """A copy of all of them. Any thread."""
        return [item for lane in self.lanes() for item in list(lane.items)]

    def lanes(self) -> Iterator[Lane]:
        """Every lane; of the hosts' lanes first the one whose last attempt is the longest ago."""
        yield self.free
        yield self.common
        yield from list(self._hosts.values())
        yield self.wide

    def requests(self, arrivals: Iterable[object]) -> list[PendingRequest]:
        """A copy of the requests that are not finished, with those among ``arrivals``, which come in lists; each of them once.
        Any thread."""
        held = [request for item in self.items() if (request := request_of(item)) is not None]
        arrived = [request for arrival in arrivals if isinstance(arrival, list) for request in arrival]
        return list({id(request): request for request in (*held, *arrived)}.values())

    def add(self, items: Sequence[Item]) -> None:
        """Take the items of a request, or a chore."""
        if is_of_many(items):
            self.wide.items += items
            return
        for item in items:
            host = host_of(item)
            if host is None and self.is_held_up:
                self.free.items.append(item)
            elif self._hosts and host in self._hosts:
                self._hosts[host].items.append(item)
            else:
                self.common.items.append(item)

    def split(self, lost_races: int) -> None:
        """Give each host of the common items a lane of its own, which has lost so many races."""
        doubtful = self.common._doubtful
        for number, item in enumerate(self.common.items):
            host = host_of(item)
            if host is None:
                self.free.items.append(item)
                continue
            lane = self._hosts.setdefault(host, Lane(host))
            lane.items.append(item)
            lane.lost_races = lost_races
            lane._doubtful += number < doubtful
        self.common = Lane(None)

    def set_free(self) -> None:
        """The common items are held up: those that need no ledger go on alone."""
        self.free.items += [item for item in self.common.items if host_of(item) is None]
        self.common.keep(lambda item: host_of(item) is not None)

    def attempted(self, lane: Lane) -> None:
        """An attempt at the lane is over: the other hosts' lanes have their turn first, and an empty lane ends."""
        if lane.host is not None:
            del self._hosts[lane.host]
            if lane.items:
                self._hosts[lane.host] = lane

    def keep(self, wanted: Callable[[Item], bool]) -> int:
        """Drop the items that are not ``wanted``. Returns the number of dropped items."""
        dropped = sum(lane.keep(wanted) for lane in self.lanes())
        self.end_empty()
        return dropped

    def end_empty(self) -> None:
        """A host's lane that is empty ends."""
        self._hosts = {host: lane for host, lane in self._hosts.items() if lane.items}
