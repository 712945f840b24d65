# SPDX-License-Identifier: Apache-2.0
"""What a node has, by resource class, and the totals and usage of custom classes in a column that SQL can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STANDARD = ("VCPU", "MEMORY_MB", "DISK_GB")


def upgrade() -> None:
    op.add_column("nodes", sa.Column("custom_resources", sa.Text))
    _convert_inventories(_with_classes)


def downgrade() -> None:
    _convert_inventories(_without_classes)
    # As text, because SQLite would get a new table, which the allocations do not refer to.
    op.execute("ALTER TABLE nodes DROP COLUMN custom_resources")


def _convert_inventories(converted: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    connection = op.get_bind()
    query = sa.text("SELECT id, inventory FROM nodes WHERE inventory IS NOT NULL")
    change = sa.text("UPDATE nodes SET inventory = :inventory WHERE id = :id")
    for row in connection.execute(query).all():
        inventory = msgpack.packb(converted(msgpack.unpackb(row.inventory)))
        connection.execute(change, {"id": row.id, "inventory": inventory})


def _with_classes(inventory: Mapping[str, Any]) -> Mapping[str, Any]:
    total, reserved = inventory["total"], inventory["reserved"]
    classes = {name: {"total": total.get(name, 0), "reserved": reserved.get(name, 0)} for name in _STANDARD}
    return {"classes": classes, "facts": inventory["facts"]}


def _without_classes(inventory: Mapping[str, Any]) -> Mapping[str, Any]:
    """The earlier schema has no custom classes, no ratios and no units."""
    classes = inventory["classes"]
    kept = {key: {name: classes[name].get(key, 0) for name in _STANDARD} for key in ("total", "reserved")}
    return {**kept, "facts": inventory["facts"]}
