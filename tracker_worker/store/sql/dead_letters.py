# SPDX-License-Identifier: Apache-2.0
"""The dead letters that the broker does not take. Each function works in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import sqlalchemy as sa

from tracker_worker.store.base import MOST_DEAD_LETTER_BYTES, MOST_DEAD_LETTERS, DeadLetterRow
from tracker_worker.store.sql.schema import dead_letters


def keep(connection: sa.Connection, rows: Sequence[DeadLetterRow]) -> int:
    """See ``Store.keep_dead_letters``."""
    for row in rows:  # one by one: psycopg sends several as a pipeline (see ``statements``)
        connection.execute(sa.insert(dead_letters).values(**msgspec.structs.asdict(row), size=row.size))
    newest_first = sa.select(dead_letters.c.id, dead_letters.c.size).order_by(dead_letters.c.id.desc())
    total = 0
    old = []
    for number, (id, size) in enumerate(connection.execute(newest_first), 1):
        total += size
        if number > 1 and (number > MOST_DEAD_LETTERS or total > MOST_DEAD_LETTER_BYTES):
            old.append(id)
    drop(connection, old)
    return len(old)


def read(connection: sa.Connection, limit: int) -> list[tuple[int, DeadLetterRow]]:
    """See ``Store.dead_letters``."""
    oldest = sa.select(dead_letters).order_by(dead_letters.c.id).limit(limit)
    found = []
    for row in connection.execute(oldest).mappings():
        values = {name: row[name] for name in DeadLetterRow.__struct_fields__}
        for name in ("properties", "headers", "body"):
            values[name] = bytes(values[name])
        found.append((row["id"], DeadLetterRow(**values)))
    return found


def drop(connection: sa.Connection, ids: Collection[int]) -> None:
    """See ``Store.drop_dead_letters``."""
    if ids:
        connection.execute(sa.delete(dead_letters).where(dead_letters.c.id.in_(list(ids))))
