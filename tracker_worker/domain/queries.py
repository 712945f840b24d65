# SPDX-License-Identifier: Apache-2.0
"""The methods that only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracker_worker.domain import views
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.service.requests.methods import GetNode, GetUsage, ListClaims, ListNodes, Query


def read(hosts: Sequence[HostLedger], query: Query) -> Any:
    """The answer, made of JSON types. Raises NodeNotFound, and InvalidInput where a node must be named."""
    match query:
        case GetNode(node=node):
            return views.node_view(hosts[0].node_or_only(node, "node"))
        case ListNodes():
            return [views.node_view(ledger) for host in hosts for ledger in host]
        case ListClaims(node=node):
            return [claim for ledger in nodes(hosts[0], node) for claim in views.claim_views(ledger)]
        case GetUsage(project_id=project_id):
            return views.usage_view((ledger for host in hosts for ledger in host), project_id)


def nodes(host: HostLedger, name: str | None) -> list[NodeLedger]:
    """The node of that name, or all. Raises NodeNotFound."""
    return list(host) if name is None else [host.node(name)]
