# SPDX-License-Identifier: Apache-2.0
"""What projects were charged between two times: from the events, or from the exists notifications alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, NotRequired, TypedDict

from tracker_worker.billing.histories import Plan
from tracker_worker.billing.journal import Journal
from tracker_worker.billing.reading import Record
from tracker_worker.billing.replay import Node
from tracker_worker.billing.timeline import Charge, Place
from tracker_worker.billing.times import text


class Segment(TypedDict):
    """A time in which nothing changed. ``from`` and ``to`` as ``YYYY-MM-DDTHH:MM:SSZ``; ``resources``: class -> amount."""

    seconds: int
    resources: dict[str, int]
    state: str
    claim_state: str
    host: str
    node: str


class Adjustment(TypedDict):
    """What was learned later of a period that is closed: to add to it."""

    audit_period_beginning: str
    audit_period_ending: str
    seconds: int
    resource_seconds: dict[str, int]
    host: str
    node: str


class InstanceUsage(TypedDict):
    """What a project was charged for one instance; ``resource_seconds``: class -> amount times seconds."""

    seconds: int
    resource_seconds: dict[str, int]
    segments: list[Any]
    adjustments: NotRequired[list[Adjustment]]


class ProjectUsage(TypedDict):
    seconds: int
    resource_seconds: dict[str, int]
    instances: dict[str, InstanceUsage]


Usage = dict[str, ProjectUsage]


class Difference(NamedTuple):
    """A resource class, or ``seconds``, of which events and exists notifications do not say the same."""

    project: str
    instance: str
    name: str
    events: int
    exists: int


class _Piece(NamedTuple):
    since: int
    until: int
    charge: Charge
    place: Place


class _Adjusted(NamedTuple):
    period: list[int]
    place: Place
    seconds: int
    sums: dict[str, int]


class _Account:
    """What is put to the accounts of projects, by project and instance."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[str, str], list[_Piece]] = defaultdict(list)
        self._adjusted: dict[tuple[str, str], list[_Adjusted]] = defaultdict(list)

    def charge(self, uuid: str, piece: _Piece) -> None:
        self._pieces[piece.charge.project, uuid].append(piece)

    def adjust(self, project: str, uuid: str, adjusted: _Adjusted) -> None:
        self._adjusted[project, uuid].append(adjusted)

    def usage(self) -> Usage:
        usage: Usage = {}
        for project, uuid in sorted({*self._pieces, *self._adjusted}):
            instance = self._instance((project, uuid))
            whole = usage.setdefault(project, {"seconds": 0, "resource_seconds": {}, "instances": {}})
            whole["instances"][uuid] = instance
            whole["seconds"] += instance["seconds"]
            for name, amount in instance["resource_seconds"].items():
                whole["resource_seconds"][name] = whole["resource_seconds"].get(name, 0) + amount
        return usage

    def _instance(self, key: tuple[str, str]) -> InstanceUsage:
        seconds = 0
        sums: Counter[str] = Counter()
        segments = []
        for piece in _joined(self._pieces.get(key, [])):
            lasted = piece.until - piece.since
            seconds += lasted
            sums.update({name: amount * lasted for name, amount in piece.charge.resources.items()})
            segments.append(_segment(piece))
        instance: InstanceUsage = {"seconds": seconds, "resource_seconds": {}, "segments": segments}
        for adjusted in sorted(self._adjusted.get(key, []), key=lambda each: (each.period, each.place)):
            instance["seconds"] += adjusted.seconds
            sums.update(adjusted.sums)
            instance.setdefault("adjustments", []).append(_adjustment(adjusted))
        instance["resource_seconds"] = dict(sorted(sums.items()))
        return instance


def _joined(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """In the order of time; neighbours that are equal are one."""
    last: _Piece | None = None
    for piece in sorted(pieces, key=lambda each: (each.since, each.place, each.until)):
        if last is None:
            last = piece
        elif (last.until, last.charge, last.place) == (piece.since, piece.charge, piece.place):
            last = last._replace(until=piece.until)
        else:
            yield last
            last = piece
    if last is not None:
        yield last


def _segment(piece: _Piece) -> dict[str, Any]:
    return {
        "from": text(piece.since),
        "to": text(piece.until),
        "seconds": piece.until - piece.since,
        "resources": dict(sorted(piece.charge.resources.items())),
        "state": piece.charge.state,
        "claim_state": piece.charge.claim_state,
        "host": piece.place[0],
        "node": piece.place[1],
    }


def _adjustment(adjusted: _Adjusted) -> Adjustment:
    begin, end = adjusted.period
    return {
        "audit_period_beginning": text(begin),
        "audit_period_ending": text(end),
        "seconds": adjusted.seconds,
        "resource_seconds": dict(sorted(adjusted.sums.items())),
        "host": adjusted.place[0],
        "node": adjusted.place[1],
    }


def from_events(nodes: Iterable[Node], begin: int, end: int) -> Usage:
    account = _Account()
    for node in nodes:
        for uuid, line in node.charges.items():
            for since, until, charge, place in line.within(begin, end):
                account.charge(uuid, _Piece(since, until, charge, place))
    return account.usage()


def from_exists(plans: Iterable[Plan], journal: Journal, begin: int, end: int) -> Usage:
    """Raises ValueError: an adjustment is of a period that lies partly outside."""
    account = _Account()
    for plan in plans:
        for stream, last in plan.parts:
            for sequence in stream.numbers.upto(last):
                record = journal.record(stream, sequence)
                if record["kind"] == "exists":
                    _add_exists(account, record, stream.place, begin, end)
    return account.usage()


def _add_exists(account: _Account, record: Record, place: Place, begin: int, end: int) -> None:
    project, uuid = record["project"], record["uuid"]
    for first, last, resources, state, claim_state in record["segments"]:
        since, until = max(begin, first), min(end, last)
        if since < until:
            account.charge(uuid, _Piece(since, until, Charge(project, resources, state, claim_state), place))
    for period, seconds, sums in record["adjustments"]:
        first, last = period
        if begin <= first and last <= end:
            account.adjust(project, uuid, _Adjusted(period, place, seconds, sums))
        elif first < end and begin < last:
            raise ValueError(
                f"the period from {text(first)} to {text(last)} was adjusted later as a whole, and lies partly outside of "
                f"{text(begin)} to {text(end)}"
            )


def differences(events: Usage, exists: Usage) -> list[Difference]:
    """Where two usages are not the same."""
    found = []
    for project in sorted({*events, *exists}):
        two = [usage[project]["instances"] if project in usage else {} for usage in (events, exists)]
        for uuid in sorted({*two[0], *two[1]}):
            first, second = (_amounts(instances.get(uuid)) for instances in two)
            found += [
                Difference(project, uuid, name, first[name], second[name])
                for name in sorted({*first, *second})
                if first[name] != second[name]
            ]
    return found


def _amounts(instance: InstanceUsage | None) -> Counter[str]:
    if instance is None:
        return Counter()
    return Counter({"seconds": instance["seconds"], **instance["resource_seconds"]})
