# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a host's ledgers without changing them, and the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from tracker_worker.domain import views
from tracker_worker.domain.ledger import HostLedger, NodeLedger


class GetNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node; ``node`` None stands for the host's only node."""

    node: str | None


class ListNodes(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes of the hosts that are asked."""


class ListClaims(msgspec.Struct, frozen=True, kw_only=True):
    """The claims that are begun; ``node`` None stands for all nodes of the host."""

    node: str | None


class GetUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What projects are charged on the hosts that are asked; ``project_id`` None stands for every project."""

    project_id: str | None


# A node with more counters has a view that may be large.
_MOST_COUNTERS = 256

Query = GetNode | ListNodes | ListClaims | GetUsage


def read(hosts: Sequence[HostLedger], query: Query) -> Any:
    """The answer, made of JSON types, of iterators, which stand for lists, and of Entries, which stand for objects: an answer
    that may be large is made while it is encoded, before the ledgers change. Raises NodeNotFound, and InvalidInput where a node
    must be named."""
    match query:
        case GetNode(node=node):
            view = views.node_view(hosts[0].node_or_only(node, "node"))
            return view if len(view["stats"]) <= _MOST_COUNTERS else views.Entries(view.items())
        case ListNodes():
            return (views.node_view(ledger) for host in hosts for ledger in host)
        case ListClaims(node=node):
            return chain.from_iterable(map(views.each_claim_view, nodes(hosts[0], node)))
        case GetUsage(project_id=project_id):
            return views.Entries(views.each_usage((ledger for host in hosts for ledger in host), project_id))


def kept(answer: Any) -> Any:
    """An answer of ``read`` that stays the same when the ledgers change."""
    if isinstance(answer, views.Entries):
        return dict(answer)
    return list(answer) if isinstance(answer, Iterator) else answer


def merged(query: Query, answers: Sequence[Any]) -> Any:
    """The answer about several hosts, from the kept answers about each of them."""
    if not isinstance(query, GetUsage):
        return chain.from_iterable(answers)
    total: dict[str, dict[str, int]] = {}
    for answer in answers:
        for project, usage in answer.items():
            sums = total.setdefault(project, dict.fromkeys(usage, 0))
            for name, amount in usage.items():
                sums[name] += amount
    return views.Entries(total.items())


def nodes(host: HostLedger, name: str | None) -> list[NodeLedger]:
    """The node of that name, or all nodes of the host. Raises NodeNotFound."""
    return list(host) if name is None else [host.node(name)]
