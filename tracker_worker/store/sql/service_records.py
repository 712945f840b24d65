# SPDX-License-Identifier: Apache-2.0
"""The service records of hosts. Each function works in the caller's transaction."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tracker_worker.domain.life import RETIRED
from tracker_worker.store.base import Conflict, HostRecord
from tracker_worker.store.sql.schema import allocations, deletions, hosts, inbox, nodes

_COUNTED = ("nodes", "instances")


def read(connection: sa.Connection) -> list[HostRecord]:
    """See ``Store.hosts``."""
    of_host = sa.and_(nodes.c.host_id == hosts.c.id, nodes.c.state != RETIRED)
    charged = sa.func.count(allocations.c.instance_uuid.distinct())
    counts = (
        sa.select(sa.func.count()).where(of_host).correlate(hosts).scalar_subquery().label("nodes"),
        sa.select(charged)
        .where(allocations.c.host_id == hosts.c.id)
        .correlate(hosts)
        .scalar_subquery()
        .label("instances"),
    )
    own = (hosts.c[name] for name in HostRecord.__struct_fields__ if name not in _COUNTED)
    found = [HostRecord(**row) for row in connection.execute(sa.select(*own, *counts)).mappings()]
    # Sorted in Python because databases differ in the order of text.
    return sorted(found, key=lambda host: host.name)


def renew_token(connection: sa.Connection, host_id: int, token: str) -> None:
    """See ``Store.renew_token``."""
    is_another = sa.or_(hosts.c.token.is_(None), hosts.c.token != token)
    connection.execute(
        sa.update(hosts).where(hosts.c.id == host_id, is_another).values(token=token, previous_token=hosts.c.token)
    )


def forget(connection: sa.Connection, host_id: int) -> None:
    """See ``Store.forget_host``."""
    try:
        for table in (inbox, deletions, nodes):
            connection.execute(sa.delete(table).where(table.c.host_id == host_id))
        connection.execute(sa.delete(hosts).where(hosts.c.id == host_id))
    except IntegrityError as error:  # allocations refer to nodes and hosts
        raise Conflict("the host is charged for instances") from error
