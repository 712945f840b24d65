# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a host's ledgers without changing them, and the answers."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec

from tracker_worker.domain import claims, views
from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.commands import BeginClaim
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger


class GetNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node; ``node`` None stands for the host's only node."""

    node: str | None


class ListNodes(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes of the hosts that are asked."""


class ListClaims(msgspec.Struct, frozen=True, kw_only=True):
    """The claims that are begun, by claim_id: those after ``after``, at most ``limit``. ``node`` None stands for all nodes of
    the host."""

    node: str | None
    limit: int | None = None
    after: str | None = None


class ListAllocations(msgspec.Struct, frozen=True, kw_only=True):
    """A page of what the nodes of a host are charged, by instance uuid and allocation id: those after ``after``, at most
    ``limit``. The other fields say which; None stands for all. ``older_than`` in microseconds."""

    node: str | None = None
    project_id: str | None = None
    role: str | None = None
    state: str | None = None
    older_than: int | None = None
    limit: int
    after: tuple[str, str] | None = None


class GetAllocation(msgspec.Struct, frozen=True, kw_only=True):
    """What a host is charged for one instance."""

    uuid: str


class WouldFit(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this claim would be granted now."""

    begin: BeginClaim


class GetUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What projects are charged on the hosts that are asked; ``project_id`` None stands for every project."""

    project_id: str | None


class GetNotifications(msgspec.Struct, frozen=True, kw_only=True):
    """At most ``limit`` notifications of a node after the number ``after``. They are no part of a ledger: ``read`` does not
    answer this, the store does."""

    node: str
    after: int
    limit: int


class GetInstances(msgspec.Struct, frozen=True, kw_only=True):
    """The instances that a node is charged for in the role INSTANCE, at most ``limit`` of those behind the uuid ``after``. What
    they were charged before is in the store."""

    node: str
    after: str | None
    limit: int


StoredQuery = GetNotifications | GetInstances
"""What ``read`` does not answer, because it is no part of a ledger."""

# A node with more counters has a view that may be large.
_MOST_COUNTERS = 256

Query = GetNode | ListNodes | ListClaims | ListAllocations | GetAllocation | WouldFit | GetUsage


def read(hosts: Sequence[HostLedger], query: Query, now: int) -> Any:
    """The answer at ``now`` (microseconds), made of JSON types, of iterators, which stand for lists, and of Entries, which
    stand for objects: an answer that may be large is made while it is encoded, before the ledgers change. Raises
    NodeNotFound, InvalidInput where a node must be named, and for WouldFit what ``claims.fit`` raises."""
    match query:
        case GetNode(node=node):
            view = views.node_view(hosts[0].node_or_only(node, "node"))
            return view if len(view["stats"]) <= _MOST_COUNTERS else views.Entries(view.items())
        case ListNodes():
            return (views.node_view(ledger) for host in hosts for ledger in host if ledger.life.retired is None)
        case ListClaims(node=node, limit=limit, after=after):
            return views.each_claim_view(nodes(hosts[0], node), limit=limit, after=after)
        case ListAllocations():
            return _page(hosts[0], query, now)
        case GetAllocation(uuid=uuid):
            charges = hosts[0].charges(uuid)
            return views.allocation_view(*charges[0]) if charges else None
        case WouldFit(begin=begin):
            return _would_fit(claims.fit(hosts[0], begin, now))
        case GetUsage(project_id=project_id):
            return views.Entries(views.each_usage((ledger for host in hosts for ledger in host), project_id))


def _page(host: HostLedger, query: ListAllocations, now: int) -> dict[str, Any]:
    asked = nodes(host, query.node)
    found = (
        ((held.uuid, held.id), ledger, held)
        for ledger in asked
        for held in (*ledger.allocations.values(), *ledger.moving.values())
        if _wanted(held, query, now)
    )
    page = heapq.nsmallest(query.limit + 1, found, key=itemgetter(0))
    shown = page[: query.limit]
    return {
        "ledger_id": host.ledger_id,
        "sequences": {ledger.name: ledger.sequence for ledger in asked},
        "allocations": [views.allocation_view(ledger, held) for _, ledger, held in shown],
        "next": "/".join(shown[-1][0]) if len(page) > len(shown) else None,
    }


def _wanted(held: Allocation, query: ListAllocations, now: int) -> bool:
    return (
        (query.after is None or (held.uuid, held.id) > query.after)
        and query.project_id in (None, held.instance.project_id or "")
        and query.role in (None, held.role)
        and query.state in (None, held.instance.vm_state)
        and (query.older_than is None or held.begun_at + query.older_than < now)
    )


def _would_fit(found: claims.Fit) -> dict[str, Any] | None:
    if not found.tracked:
        return None
    shortfalls = [shortfall.to_dict() for shortfall in found.shortfalls]
    return {"fits": not shortfalls, "shortfalls": shortfalls, "limit_source": found.limit_source}


def kept(answer: Any, made: Callable[[Any], Any] = lambda item: item) -> Any:
    """An answer of ``read`` that stays the same when the ledgers change. Of the items of a list, what ``made`` makes of each is
    kept."""
    if isinstance(answer, views.Entries):
        return dict(answer)
    return [made(item) for item in answer] if isinstance(answer, Iterator) else answer


def merged(query: Query, answers: Sequence[Any]) -> Any:
    """The answer about several hosts, from the kept answers about each of them."""
    if not isinstance(query, GetUsage):
        return chain.from_iterable(answers)
    total: dict[str, dict[str, Any]] = {}
    for answer in answers:
        for project, usage in answer.items():
            total[project] = _sum(total[project], usage) if project in total else usage
    return views.Entries(total.items())


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two objects whose values are numbers, or such objects."""
    sums = {**one, **other}
    for name in one.keys() & other.keys():
        sums[name] = _sum(one[name], other[name]) if isinstance(one[name], Mapping) else one[name] + other[name]
    return sums


def nodes(host: HostLedger, name: str | None) -> list[NodeLedger]:
    """The node of that name, or all nodes of the host that are not retired. Raises NodeNotFound."""
    return [ledger for ledger in host if ledger.life.retired is None] if name is None else [host.node(name)]
