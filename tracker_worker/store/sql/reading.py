# SPDX-License-Identifier: Apache-2.0
"""Ledgers from the database. Any thread may call these functions; each reads in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from tracker_worker.domain.ledger import HostLedger
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.schema import allocations, hosts, nodes


def load_host(connection: sa.Connection, name: str) -> HostLedger | None:
    """Return the ledgers of the host of this name; None: it has no service record."""
    host_id = connection.execute(sa.select(hosts.c.id).where(hosts.c.name == name)).scalar_one_or_none()
    return None if host_id is None else _load(connection, host_id, name)


def refreshed(connection: sa.Connection, known: Mapping[str, Mapping[int, int]]) -> dict[str, HostLedger]:
    """Return the ledgers of those of these hosts whose nodes differ from ``known``: see ``Store.refreshed``."""
    query = (
        sa.select(hosts.c.id, hosts.c.name, nodes.c.id.label("node_id"), nodes.c.generation)
        .select_from(hosts.outerjoin(nodes))
        .where(hosts.c.name.in_(list(known)))
    )
    ids: dict[str, int] = {}
    stored: dict[str, dict[int, int]] = {}
    for row in connection.execute(query):
        ids[row.name] = row.id
        generations = stored.setdefault(row.name, {})
        if row.node_id is not None:
            generations[row.node_id] = row.generation
    return {
        name: _load(connection, ids[name], name)
        for name, generations in stored.items()
        if not known[name] or known[name] != generations
    }


def _load(connection: sa.Connection, host_id: int, name: str) -> HostLedger:
    of_host = sa.select(nodes).where(nodes.c.host_id == host_id).order_by(nodes.c.id)
    charged = sa.select(allocations).where(allocations.c.host_id == host_id)
    return host_from(
        host_id, name, connection.execute(of_host).mappings().all(), connection.execute(charged).mappings()
    )


def host_from(
    host_id: int, name: str, of_host: Iterable[Mapping[Any, Any]], charged: Iterable[Mapping[Any, Any]]
) -> HostLedger:
    """Return the ledgers of a host from the rows of its nodes, by id, and of its allocations."""
    host = HostLedger(id=host_id, name=name)
    read = {row["id"]: row for row in of_host}
    by_id = {node_id: rows.ledger_from(name, row) for node_id, row in read.items()}
    for row in charged:
        by_id[row["node_id"]].restore(rows.allocation_from(row))
    for node_id, ledger in by_id.items():
        ledger.drift = rows.drift(ledger, read[node_id])
        host.nodes[ledger.name] = ledger
    return host
