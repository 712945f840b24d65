# SPDX-License-Identifier: Apache-2.0
"""How a period of a node is closed: what was charged in it is told to billing, and then that this was all.

It takes several steps, each of which is a commit. The first one freezes the period: the node's time has passed its end, so that
no decision falls into it any more, and what is learned of it late is an adjustment of the next one. What it contains can
therefore be read at any later time. Each further step tells the usage of some instances, in the order of their uuids, and keeps
how far it has got: a crash neither skips nor repeats one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

from msgspec.structs import replace

from tracker_worker.domain import commands, events
from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.decision import NOTHING, Decision, decided
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.resources import ZERO, Resources
from tracker_worker.domain.segments import Adjustment, InstanceUsage, Segment, segment, whole_seconds

MOST_SEGMENTS = 200
"""The most segments, and the most adjustments, of one notification."""
MOST_BYTES = 65_536
"""The most bytes of their amounts, by class; but one of them is not divided."""
_DIGITS = 20
Part = TypeVar("Part", Segment, Adjustment)


def begin(ledger: NodeLedger, command: commands.BeginPeriod, now: int) -> Decision:
    """A period that is no longer the next one, or not over, is left alone: another worker was first."""
    known, at = ledger.periods, ledger.time(now)
    if ledger.id != command.node_id or known.ending or known.until != command.known or at < command.ending:
        return NOTHING
    first = known.first or command.beginning
    periods = replace(known, first=first, until=command.beginning, ending=command.ending)
    return decided(ledger, events.PeriodsNoted(at=at, periods=periods))


def tell(ledger: NodeLedger, command: commands.TellUsage, now: int) -> Decision:
    """A step that was taken already is left alone."""
    periods, at = ledger.periods, ledger.time(now)
    place = ledger.id, periods.ending, periods.after
    if place != (command.node_id, command.ending, command.after):
        return NOTHING
    happened: list[events.Event] = []
    for usage in command.usages:
        if usage.uuid <= periods.after:
            continue  # another worker has told it meanwhile
        for told in _exists(ledger, usage, command.closed, at):
            happened.append(told)
            periods = _with(periods, told, ledger.sequence + len(happened))
        periods = replace(periods, after=usage.uuid)
    if command.last:
        happened.append(events.PeriodClosed(at=at, periods=periods))
        periods = Periods(
            until=periods.ending, first=periods.first, learned_at=periods.learned_at, kept_from=periods.kept_from
        )
    return decided(ledger, *happened, events.PeriodsNoted(at=at, periods=periods))


def forget(ledger: NodeLedger, command: commands.ForgetUsage, now: int) -> Decision:
    """What was learned late is told before anything is forgotten that it may concern."""
    known = ledger.periods
    before = min(command.ended_before, known.until)
    if ledger.id != command.node_id or not known.first or before <= known.kept_from or known.learned_at >= known.until:
        return NOTHING
    return decided(ledger, events.PeriodsNoted(at=ledger.time(now), periods=replace(ledger.periods, kept_from=before)))


def _with(periods: Periods, told: events.UsageExists, sequence: int) -> Periods:
    return replace(
        periods,
        exists=periods.exists + 1,
        first_sequence=periods.first_sequence or sequence,
        last_sequence=sequence,
        seconds=periods.seconds + told.seconds,
        resource_seconds=(Resources.of(periods.resource_seconds) + Resources.of(told.resource_seconds)).to_dict(),
    )


@dataclass(slots=True)
class _OfProject:
    """What one project was charged for an instance."""

    shown: Allocation
    segments: list[Segment] = field(default_factory=list)
    adjustments: list[Segment] = field(default_factory=list)


def _exists(
    ledger: NodeLedger, usage: InstanceUsage, closed: Sequence[tuple[int, int]], at: int
) -> Iterator[events.UsageExists]:
    """The notifications of an instance: at least one for each project that was charged, or for which there is an adjustment."""
    periods = ledger.periods
    present = ledger.allocations.get(usage.uuid)
    for project, found in sorted(_projects(usage, periods).items()):
        shown = found.shown
        if present is not None and (present.instance.project_id or "") == project:
            shown = present
        adjustments = list(_adjustments(found.adjustments, closed))
        segments = _divided(found.segments, [each.allocation.resources.to_dict() for each in found.segments])
        adjusted = _divided(adjustments, [each.resource_seconds for each in adjustments])
        parts = list(zip_longest(segments, adjusted, fillvalue=()))
        for number, (some, others) in enumerate(parts, start=1):
            seconds, total = sums(some)
            for each in others:
                seconds += each.seconds
                total += Resources.of(each.resource_seconds)
            yield events.UsageExists(
                at=at,
                beginning=periods.until,
                ending=periods.ending,
                shown=shown,
                segments=tuple(some),
                adjustments=tuple(others),
                seconds=seconds,
                resource_seconds=total.to_dict(),
                part=number,
                parts=len(parts),
            )


def _divided(items: Sequence[Part], amounts: Sequence[Mapping[str, int]]) -> list[list[Part]]:
    """The items, which have these amounts, in parts that are not too large."""
    parts: list[list[Part]] = []
    room = 0
    for item, some in zip(items, amounts, strict=True):
        size = sum(len(name) + _DIGITS for name in some)
        if not parts or len(parts[-1]) == MOST_SEGMENTS or size > room:
            parts.append([])
            room = MOST_BYTES
        parts[-1].append(item)
        room -= size
    return parts


def _projects(usage: InstanceUsage, periods: Periods) -> dict[str, _OfProject]:
    """By project; '' stands for none."""
    held = usage.allocation
    goes_on = () if held is None else (segment(held, held.since, periods.ending),)
    found: dict[str, _OfProject] = {}
    for each in (*usage.segments, *goes_on):
        if not each.adjusts:
            each = within(each, periods.until, periods.ending)
        if whole_seconds(each.since, each.until) <= 0:
            continue
        project = found.setdefault(each.allocation.instance.project_id or "", _OfProject(each.allocation))
        if each.adjusts:
            project.adjustments.append(each)
        else:
            project.segments.append(each)
            project.shown = each.allocation
    return found


def within(each: Segment, beginning: int, ending: int) -> Segment:
    """The part of a segment in a period. One that has none ends before it begins."""
    return replace(each, since=max(each.since, beginning), until=min(each.until, ending))


def sums(segments: Iterable[Segment]) -> tuple[int, Resources]:
    """The seconds of segments, and their resource-seconds."""
    total, vector = 0, ZERO
    for each in segments:
        seconds = whole_seconds(each.since, each.until)
        total += seconds
        vector += each.allocation.resources.times(seconds)
    return total, vector


def _adjustments(segments: Sequence[Segment], closed: Sequence[tuple[int, int]]) -> Iterator[Adjustment]:
    """The sums of adjustments in each of the closed periods."""
    for beginning, ending in closed:
        total, vector = 0, ZERO
        for each in segments:
            part = within(each, beginning, ending)
            seconds = whole_seconds(part.since, part.until)
            if seconds > 0:
                total += each.adjusts * seconds
                vector += each.allocation.resources.times(each.adjusts * seconds)
        if total or any(amount for _, amount in vector.items()):
            yield Adjustment(beginning=beginning, ending=ending, seconds=total, resource_seconds=vector.to_dict())
