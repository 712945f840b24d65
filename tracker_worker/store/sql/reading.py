# SPDX-License-Identifier: Apache-2.0
"""Ledgers from the database. Any thread may call these functions; each reads in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from tracker_worker.domain.allocation import INCOMING, Allocation
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.life import DRAINING, MISSING
from tracker_worker.domain.move import KEPT, Move
from tracker_worker.store.base import Progress
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.schema import (
    allocations,
    deletions,
    histories,
    hosts,
    moves,
    nodes,
    relay_cursor,
    streams,
)

_PRESENT = sa.select(histories.c.ledger_id).order_by(histories.c.number.desc()).limit(1)
"""The ledger_id of the present history."""


def load_host(connection: sa.Connection, name: str) -> HostLedger | None:
    """Return the ledgers of the host of this name; None: it has no service record."""
    host_id = connection.execute(sa.select(hosts.c.id).where(hosts.c.name == name)).scalar_one_or_none()
    return None if host_id is None else _load(connection, host_id, name)


def refreshed(
    connection: sa.Connection, known: Mapping[str, Mapping[int, int]], known_in: str | None
) -> dict[str, HostLedger]:
    """Return the ledgers of those of these hosts whose nodes differ from ``known``, which the caller has of the history
    ``known_in``: see ``Store.refreshed``."""
    present = _PRESENT.scalar_subquery().label("ledger_id")
    query = (
        sa.select(hosts.c.id, hosts.c.name, nodes.c.id.label("node_id"), nodes.c.generation, present)
        .select_from(hosts.outerjoin(nodes))
        .where(hosts.c.name.in_(list(known)))
    )
    ids: dict[str, int] = {}
    stored: dict[str, dict[int, int]] = {}
    other = False
    for row in connection.execute(query):
        ids[row.name] = row.id
        other = known_in not in (None, row.ledger_id)
        generations = stored.setdefault(row.name, {})
        if row.node_id is not None:
            generations[row.node_id] = row.generation
    return {
        name: _load(connection, ids[name], name)
        for name, generations in stored.items()
        if other or not known[name] or known[name] != generations
    }


def missing_nodes(connection: sa.Connection) -> list[tuple[str, str]]:
    """See ``Store.missing_nodes``."""
    # An operator's mark is shown before what the driver says, which is in ``life``.
    charged = (
        sa.select(hosts.c.name.label("host"), nodes.c.name, nodes.c.life)
        .select_from(nodes.join(hosts))
        .where(nodes.c.state.in_((MISSING, DRAINING)), sa.exists().where(allocations.c.node_id == nodes.c.id))
    )
    return sorted((row.host, row.name) for row in connection.execute(charged) if not rows.life_from(row.life).listed)


def page(
    connection: sa.Connection, having: Mapping[sa.Column[Any], str | None], *, after: tuple[str, str] | None, limit: int
) -> list[tuple[str, str, Allocation]]:
    """See ``Store.allocations``. ``having``: column -> the value that it must have; None: any value."""
    found = connection.execute(page_query(having, after=after, limit=limit)).mappings().all()
    return [(row["host"], row["node"], rows.allocation_from(row)) for row in found]


def page_query(
    having: Mapping[sa.Column[Any], str | None], *, after: tuple[str, str] | None, limit: int
) -> sa.Select[Any]:
    """The query of ``page``, which reads in the order of an index."""
    in_order = (allocations.c.instance_uuid, allocations.c.id)
    query = (
        sa.select(allocations, hosts.c.name.label("host"), nodes.c.name.label("node"))
        .select_from(allocations.join(nodes, nodes.c.id == allocations.c.node_id))
        .join(hosts, hosts.c.id == nodes.c.host_id)
        .where(*(column == value for column, value in having.items() if value is not None))
        .order_by(*in_order)
        .limit(limit)
    )
    if after is None:
        return query
    uuid, allocation_id = after
    # The first condition finds the place in the index; the second one leaves out what is before it.
    return query.where(in_order[0] >= uuid, sa.or_(in_order[0] > uuid, in_order[1] > allocation_id))


def incoming(connection: sa.Connection, uuids: Collection[str]) -> dict[str, tuple[str, str]]:
    """See ``Store.incoming``."""
    query = (
        sa.select(allocations.c.instance_uuid, hosts.c.name.label("host"), nodes.c.name.label("node"))
        .select_from(allocations.join(nodes, nodes.c.id == allocations.c.node_id))
        .join(hosts, hosts.c.id == nodes.c.host_id)
        .where(allocations.c.instance_uuid.in_(list(uuids)), allocations.c.role == INCOMING)
    )
    return {row.instance_uuid: (row.host, row.node) for row in connection.execute(query)}


def known_moves(
    connection: sa.Connection, having: Mapping[sa.Column[Any], object], limit: int
) -> list[tuple[str, Move]]:
    """See ``Store.moves``. ``having``: column -> the value that it must have; None: any value."""
    query = (
        sa.select(moves, hosts.c.name.label("host"))
        .join(hosts, hosts.c.id == moves.c.host_id)
        .where(*(column == value for column, value in having.items() if value is not None))
        .order_by(moves.c.id, hosts.c.name)
        .limit(limit)
    )
    return [(row["host"], rows.move_from(row)) for row in connection.execute(query).mappings()]


def untold_moves(
    connection: sa.Connection, having: Mapping[sa.Column[Any], object], *, after: str, limit: int
) -> list[Move]:
    """See ``Store.untold_moves``. ``having``: as in ``known_moves``."""
    source, record = hosts.alias(), moves.alias()
    query = (
        sa.select(moves)
        .join(source, source.c.name == moves.c.from_host)
        .where(*(column == value for column, value in having.items() if value is not None))
        .where(moves.c.state.in_(KEPT), moves.c.id > after, moves.c.host_id != source.c.id)
        .where(sa.exists().where(nodes.c.host_id == source.c.id))
        .where(~sa.exists().where(record.c.id == moves.c.id, record.c.host_id == source.c.id))
        .order_by(moves.c.id)
        .limit(limit)
    )
    return list(map(rows.move_from, connection.execute(query).mappings()))


def progress(connection: sa.Connection, names: Collection[str]) -> Progress:
    """See ``Store.progress``."""
    of_hosts = sa.select(nodes.c.id, nodes.c.generation).join(hosts).where(hosts.c.name.in_(list(names)))
    named = streams.c.host.in_(list(names))
    confirmed = sa.select(relay_cursor.c.stream_id, relay_cursor.c.topic, relay_cursor.c.sequence).join(streams)
    return Progress(
        ledger_id=ledger_id(connection),
        generations={row.id: row.generation for row in connection.execute(of_hosts)},
        sequences={row.id: row.sequence for row in connection.execute(sa.select(streams).where(named))},
        cursors={(row.stream_id, row.topic): row.sequence for row in connection.execute(confirmed.where(named))},
    )


def ledger_id(connection: sa.Connection) -> str:
    """Return the id of the present history."""
    return str(connection.execute(_PRESENT).scalar_one())


def _load(connection: sa.Connection, host_id: int, name: str) -> HostLedger:
    of_host = (
        sa.select(nodes, streams.c.sequence, streams.c.occurred_at)
        .join(streams)
        .where(nodes.c.host_id == host_id)
        .order_by(nodes.c.id)
    )
    charged = sa.select(allocations).where(allocations.c.host_id == host_id)
    deleted = sa.select(deletions).where(deletions.c.host_id == host_id)
    return host_from(
        host_id,
        name,
        ledger_id(connection),
        connection.execute(of_host).mappings().all(),
        connection.execute(charged).mappings(),
        connection.execute(deleted).mappings(),
        connection.execute(sa.select(moves).where(moves.c.host_id == host_id)).mappings(),
    )


def host_from(
    host_id: int,
    name: str,
    ledger_id: str,
    of_host: Iterable[Mapping[Any, Any]],
    charged: Iterable[Mapping[Any, Any]],
    deleted: Iterable[Mapping[Any, Any]],
    moved: Iterable[Mapping[Any, Any]],
) -> HostLedger:
    """Return the ledgers of a host from the rows of its nodes with those of their streams, by id, of its allocations, of its
    deletions, and of its moves."""
    host = HostLedger(id=host_id, name=name, ledger_id=ledger_id)
    read = {row["id"]: row for row in of_host}
    by_id = {node_id: rows.ledger_from(name, ledger_id, row) for node_id, row in read.items()}
    for row in charged:
        by_id[row["node_id"]].restore(rows.allocation_from(row))
    for row in sorted(deleted, key=itemgetter("reported_at")):
        by_id[row["node_id"]].deletions[row["instance_uuid"]] = row["reported_at"]
    for row in moved:
        by_id[row["node_id"]].restore_move(rows.move_from(row))
    for node_id, ledger in by_id.items():
        ledger.drift = rows.drift(ledger, read[node_id])
        host.nodes[ledger.name] = ledger
    return host
