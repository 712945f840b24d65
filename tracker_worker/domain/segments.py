# SPDX-License-Identifier: Apache-2.0
"""What a node was charged for instances, by time: segments, in each of which nothing changed that a bill depends on.

The charge that goes on has no segment yet: it is the allocation, ``since`` when it is as it is. When it changes or ends, a
segment tells what was charged until then. Only whole seconds count, of times that are rounded down before they are subtracted
(a sum of rounded durations would not be exact); a segment within one second is left out.

A period of time that is closed was told to billing, and is not told again. What is learned of it later, because a move was
told late, is an adjustment: a segment that is added to a later period, or taken from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.values import SECOND

_EVER = 2**62
"""No time comes after it. Microseconds."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """``allocation``, as it was charged from ``since`` to ``until`` (microseconds). ``holds_until``: up to there it is still
    right; what comes after that was taken back by an adjustment. ``adjusts``: 1 or -1, what an adjustment adds to or takes from
    periods that were closed when it was ``noted_at``; else 0."""

    allocation: Allocation
    since: int
    until: int
    holds_until: int
    adjusts: int = 0
    noted_at: int = 0

    @property
    def uuid(self) -> str:
        """The uuid of the instance."""
        return self.allocation.uuid


class Adjustment(msgspec.Struct, frozen=True, kw_only=True):
    """What is added to a closed period: its beginning and its ending (microseconds), and the sums, which may be negative."""

    beginning: int
    ending: int
    seconds: int
    resource_seconds: Mapping[str, int]


class InstanceUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a node was charged for the instance ``uuid`` in a period: ``allocation`` is what it is charged now, or None;
    ``segments`` are those that have a part in the period or are adjustments which were noted in it, by their time."""

    uuid: str
    allocation: Allocation | None
    segments: tuple[Segment, ...]


def segment(held: Allocation, since: int, until: int) -> Segment:
    return Segment(allocation=held, since=since, until=until, holds_until=until)


def adjustment(held: Allocation, since: int, until: int, *, sign: int, noted_at: int) -> Segment:
    """What is taken back holds no longer, so that nothing takes it back once more."""
    return Segment(
        allocation=held,
        since=since,
        until=until,
        holds_until=until if sign > 0 else since,
        adjusts=sign,
        noted_at=noted_at,
    )


def whole_seconds(since: int, until: int) -> int:
    """The whole seconds from ``since`` to ``until``, both in microseconds."""
    return until // SECOND - since // SECOND


def in_period(each: Segment, beginning: int, ending: int) -> bool:
    """Whether a segment has a part in a period, or is an adjustment that the period tells."""
    if each.adjusts:
        return beginning <= each.noted_at < ending
    return each.until > beginning and each.since < ending


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """It was learned at ``noted_at`` that from ``at`` on nothing was charged of what the segments of the instance ``uuid`` say.
    Periods are closed from ``first`` to ``closed``: what lies there stays, and an adjustment takes it back."""

    uuid: str
    at: int
    first: int
    closed: int
    noted_at: int


def after_cut(segments: Iterable[Segment], cut: Cut) -> Iterator[Segment]:
    """The segments as they are after a cut."""
    at, closed = cut.at, cut.closed
    edge = max(at, closed)
    for each in segments:
        if each.uuid != cut.uuid or each.holds_until <= at:
            yield each
            continue
        until = each.until if each.adjusts else min(each.until, edge)
        if whole_seconds(each.since, until) > 0:
            yield replace(each, until=until, holds_until=max(at, each.since))
        since, taken = max(each.since, at, cut.first), min(each.holds_until, closed)
        if whole_seconds(since, taken) > 0:
            yield adjustment(each.allocation, since, taken, sign=-1, noted_at=cut.noted_at)


class SegmentLog:
    """What the decisions of one commit do to the segments of a node. First ``cuts``, in their order, on those that the store
    has; then it adds ``added``."""

    __slots__ = ("added", "cuts")

    def __init__(self) -> None:
        self.added: list[Segment] = []
        self.cuts: list[Cut] = []

    def clear(self) -> None:
        """Note that the store has everything."""
        self.added.clear()
        self.cuts.clear()

    def begin(self, new: Allocation, at: int, periods: Periods, noted_at: int) -> int:
        """``new`` is charged from ``at`` on, and this is decided at ``noted_at``. Returns from when on that has no segment."""
        closed = periods.closed
        since = max(at, periods.first)
        if whole_seconds(since, closed) > 0:
            self.added.append(adjustment(new, since, closed, sign=1, noted_at=max(noted_at, closed)))
        return max(at, closed)

    def end(self, held: Allocation, at: int, periods: Periods, noted_at: int) -> None:
        """What was charged is so only until ``at``."""
        if at >= held.since and at >= periods.closed:
            if whole_seconds(held.since, at) > 0:
                self.added.append(segment(held, held.since, at))
            return
        cut = _cut(held.uuid, at, periods, noted_at)
        if at < held.since:
            self._cut(cut)
        self.added.extend(after_cut((segment(held, held.since, _EVER),), cut))

    def cut(self, uuid: str, at: int, periods: Periods, noted_at: int) -> None:
        """Nothing was charged from ``at`` on for an instance that is not charged now."""
        self._cut(_cut(uuid, at, periods, noted_at))

    def _cut(self, cut: Cut) -> None:
        self.added = list(after_cut(self.added, cut))
        self.cuts.append(cut)


def _cut(uuid: str, at: int, periods: Periods, noted_at: int) -> Cut:
    closed = periods.closed
    return Cut(uuid=uuid, at=at, first=periods.first, closed=closed, noted_at=max(noted_at, closed))
