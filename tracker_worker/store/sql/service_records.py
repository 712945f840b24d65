# SPDX-License-Identifier: Apache-2.0
"""The service records of hosts. Each function works in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tracker_worker.domain.life import RETIRED
from tracker_worker.store.base import CARETAKER, Conflict, HostRecord
from tracker_worker.store.sql.schema import (
    allocations,
    closed_periods,
    deletions,
    hosts,
    inbox,
    moves,
    nodes,
    streams,
    usage_segments,
    workers,
)


def read(connection: sa.Connection, name: str | None = None) -> list[HostRecord]:
    """See ``Store.hosts``; of the host ``name`` alone, if it is given."""
    ids = None if name is None else sa.select(hosts.c.id).where(hosts.c.name == name).scalar_subquery()
    counted = {
        "nodes": _counted(nodes, nodes.c.state != RETIRED, ids),
        "instances": _counted(allocations, sa.true(), ids),
    }
    own = (hosts.c[name] for name in HostRecord.__struct_fields__ if name in hosts.c)
    counts = (sa.func.coalesce(found.c.number, 0).label(name) for name, found in counted.items())
    tables: sa.FromClause = hosts
    for each in counted.values():
        tables = tables.outerjoin(each, each.c.host_id == hosts.c.id)
    query = sa.select(*own, *counts).select_from(tables)
    if name is not None:
        query = query.where(hosts.c.name == name)
    serving = _workers(connection)
    rows = connection.execute(query).mappings()
    found = [HostRecord(**row, workers=serving.get(row["id"], {})) for row in rows]
    # Sorted in Python because databases differ in the order of text.
    return sorted(found, key=lambda host: host.name)


def _counted(table: sa.Table, condition: sa.ColumnElement[bool], host_id: sa.ScalarSelect[Any] | None) -> sa.Subquery:
    """The ``number`` of rows of each host, counted in one pass: a count for each host would scan the table as often.
    ``host_id``: of that host alone."""
    query = sa.select(table.c.host_id, sa.func.count().label("number")).where(condition).group_by(table.c.host_id)
    return (query if host_id is None else query.where(table.c.host_id == host_id)).subquery()


def _workers(connection: sa.Connection) -> dict[int, dict[str, int]]:
    """Host id -> name of a worker that serves the host -> until when."""
    found: dict[int, dict[str, int]] = {}
    for row in connection.execute(sa.select(workers)):
        for host_id in msgspec.msgpack.decode(row.hosts, type=list[int]):
            found.setdefault(host_id, {})[row.name] = row.expires_at
    return found


def take_lease(
    connection: sa.Connection,
    host_ids: Collection[int],
    owner: str,
    *,
    now: int,
    until: int,
    force: bool,
    blocked_since: int | None,
) -> set[int]:
    """See ``Store.take_lease``."""
    free = sa.or_(
        hosts.c.lease_owner.is_(None), hosts.c.lease_owner == owner, _over(hosts.c.lease_expires_at, now, until)
    )
    if not owner.endswith(CARETAKER):
        free = sa.or_(free, hosts.c.lease_owner.endswith(CARETAKER))
    # In the order of the ids, so that two workers do not wait for each other's hosts crosswise.
    in_order = sa.select(hosts.c.id).where(hosts.c.id.in_(host_ids)).order_by(hosts.c.id)
    connection.execute(in_order.with_for_update(key_share=True)).all()
    connection.execute(
        sa.update(hosts)
        .where(hosts.c.id.in_(host_ids), sa.or_(free, sa.literal(force)))
        .values(lease_owner=owner, lease_expires_at=until, last_seen_at=now, blocked_since=blocked_since)
    )
    held = sa.select(hosts.c.id).where(hosts.c.id.in_(host_ids), hosts.c.lease_owner == owner)
    return set(connection.execute(held).scalars())


def note_worker(
    connection: sa.Connection, insert: Callable[..., Any], name: str, host_ids: Collection[int], *, now: int, until: int
) -> None:
    """Note which hosts a worker serves, and delete the rows of those that have not said so for too long."""
    said = {"hosts": msgspec.msgpack.encode(sorted(host_ids)), "expires_at": until}
    connection.execute(
        insert(workers).values(name=name, **said).on_conflict_do_update(index_elements=[workers.c.name], set_=said)
    )
    connection.execute(sa.delete(workers).where(_over(workers.c.expires_at, now, until)))


def _over(expires_at: sa.ColumnElement[int], now: int, until: int) -> sa.ColumnElement[bool]:
    """Whether a time is over, or so far ahead that the clock was wrong by which it was set."""
    return sa.or_(expires_at < now, expires_at > until + (until - now) // 2)


def release_lease(connection: sa.Connection, owner: str) -> None:
    """See ``Store.release_lease``."""
    connection.execute(
        sa.update(hosts).where(hosts.c.lease_owner == owner).values(lease_owner=None, blocked_since=None)
    )
    connection.execute(sa.delete(workers).where(workers.c.name == owner))


def renew_token(connection: sa.Connection, host_id: int, token: str) -> None:
    """See ``Store.renew_token``."""
    is_another = sa.or_(hosts.c.token.is_(None), hosts.c.token != token)
    connection.execute(
        sa.update(hosts).where(hosts.c.id == host_id, is_another).values(token=token, previous_token=hosts.c.token)
    )


def forget(connection: sa.Connection, host_id: int) -> None:
    """See ``Store.forget_host``."""
    left_at = sa.select(nodes.c.generation).where(nodes.c.stream_id == streams.c.id).scalar_subquery()
    its_streams = sa.select(nodes.c.stream_id).where(nodes.c.host_id == host_id)
    connection.execute(sa.update(streams).where(streams.c.id.in_(its_streams)).values(generation=left_at))
    its_nodes = sa.select(nodes.c.id).where(nodes.c.host_id == host_id)
    for table in (usage_segments, closed_periods):
        connection.execute(sa.delete(table).where(table.c.node_id.in_(its_nodes)))
    try:
        for table in (inbox, deletions, moves, nodes):
            connection.execute(sa.delete(table).where(table.c.host_id == host_id))
        connection.execute(sa.delete(hosts).where(hosts.c.id == host_id))
    except IntegrityError as error:  # allocations refer to nodes and hosts
        raise Conflict("the host is charged for instances") from error
