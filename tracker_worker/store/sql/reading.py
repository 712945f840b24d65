# SPDX-License-Identifier: Apache-2.0
"""Ledgers from the database. Any thread may call these functions; each reads in the caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from tracker_worker.domain.allocation import INCOMING, Allocation
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.life import DRAINING, MISSING
from tracker_worker.domain.move import KEPT, Move
from tracker_worker.store.base import Progress
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.parts import parts
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

# Of more allocations than so many, PostgreSQL keeps the result: whole, it would double the memory of this process.
_AT_ONCE = 5000
_HOSTS_AT_ONCE = 100
_PRESENT = sa.select(histories.c.ledger_id).order_by(histories.c.number.desc()).limit(1)
"""The ledger_id of the present history."""


def load_host(connection: sa.Connection, name: str) -> HostLedger | None:
    """Return the ledgers of the host of this name; None: it has no service record."""
    host_id = connection.execute(sa.select(hosts.c.id).where(hosts.c.name == name)).scalar_one_or_none()
    return None if host_id is None else next(_load(connection, {host_id: name}))


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
    differing = {
        ids[name]: name
        for name, generations in stored.items()
        if other or not known[name] or known[name] != generations
    }
    return {host.name: host for host in _load(connection, differing)}


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


def _load(connection: sa.Connection, names: Mapping[int, str]) -> Iterator[HostLedger]:
    """The ledgers of these hosts (id -> name): of small ones many together, as each query takes longer than a few rows."""
    present = ledger_id(connection) if names else ""
    for first in range(0, len(names), _HOSTS_AT_ONCE):
        ids = [*names][first : first + _HOSTS_AT_ONCE]
        of_hosts = (
            sa.select(nodes, streams.c.sequence, streams.c.occurred_at)
            .join(streams)
            .where(nodes.c.host_id.in_(ids))
            .order_by(nodes.c.id)
        )
        read = _by_host(connection.execute(of_hosts))
        sizes = {id: sum(row["running_vms"] for row in read[id]) for id in ids}
        for part in parts(sizes, sizes.__getitem__, most_items=_HOSTS_AT_ONCE, most_size=_AT_ONCE):
            charged, deleted, moved = (
                sa.select(table).where(table.c.host_id.in_(part)) for table in (allocations, deletions, moves)
            )
            options = {"yield_per": _AT_ONCE} if sizes[part[0]] > _AT_ONCE else {}
            found = connection.execute(charged, execution_options=options)
            charges = {part[0]: found.mappings()} if len(part) == 1 else _by_host(found)
            others = [_by_host(connection.execute(query)) for query in (deleted, moved)]
            for id in part:
                yield host_from(id, names[id], present, read[id], charges.get(id, ()), *(each[id] for each in others))


def _by_host(found: sa.CursorResult[Any]) -> defaultdict[int, list[Mapping[Any, Any]]]:
    rows_of: defaultdict[int, list[Mapping[Any, Any]]] = defaultdict(list)
    for row in found.mappings():
        rows_of[row["host_id"]].append(row)
    return rows_of


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
