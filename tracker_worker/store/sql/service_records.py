# SPDX-License-Identifier: Apache-2.0
"""The service records of hosts. Each function works in the caller's transaction."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tracker_worker.domain.life import RETIRED
from tracker_worker.store.base import Conflict, HostRecord
from tracker_worker.store.sql.schema import allocations, deletions, hosts, inbox, nodes, streams


def read(connection: sa.Connection) -> list[HostRecord]:
    """See ``Store.hosts``."""
    counted = {
        "nodes": _counted(nodes, nodes.c.state != RETIRED),
        "instances": _counted(allocations, sa.true()),
    }
    own = (hosts.c[name] for name in HostRecord.__struct_fields__ if name not in counted)
    counts = (sa.func.coalesce(found.c.number, 0).label(name) for name, found in counted.items())
    tables: sa.FromClause = hosts
    for each in counted.values():
        tables = tables.outerjoin(each, each.c.host_id == hosts.c.id)
    query = sa.select(*own, *counts).select_from(tables)
    found = [HostRecord(**row) for row in connection.execute(query).mappings()]
    # Sorted in Python because databases differ in the order of text.
    return sorted(found, key=lambda host: host.name)


def _counted(table: sa.Table, condition: sa.ColumnElement[bool]) -> sa.Subquery:
    """The ``number`` of rows of each host, counted in one pass: a count for each host would scan the table as often."""
    return (
        sa.select(table.c.host_id, sa.func.count().label("number"))
        .where(condition)
        .group_by(table.c.host_id)
        .subquery()
    )


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
    try:
        for table in (inbox, deletions, nodes):
            connection.execute(sa.delete(table).where(table.c.host_id == host_id))
        connection.execute(sa.delete(hosts).where(hosts.c.id == host_id))
    except IntegrityError as error:  # allocations refer to nodes and hosts
        raise Conflict("the host is charged for instances") from error
