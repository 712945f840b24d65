# SPDX-License-Identifier: Apache-2.0
"""Segments of what instances were charged, and how far the periods of nodes are closed.

What was charged before the upgrade is known only as it is now. The first period of each node is the one in which the upgrade
falls, and nothing before it is told.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from tracker_worker import threads

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("allocations", sa.Column("since", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE allocations SET since = begun_at WHERE role = 'instance'")
    op.add_column("nodes", sa.Column("periods", sa.LargeBinary))
    known = {"periods": json.dumps({"until": threads.now_microseconds()}).encode()}
    op.get_bind().execute(sa.text("UPDATE nodes SET periods = :periods"), known)
    in_code_order = {
        length: sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql") for length in (36, 255)
    }
    op.create_table(
        "usage_segments",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("holds_until", sa.BigInteger, nullable=False),
        sa.Column("adjusts", sa.SmallInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("id", in_code_order[36], nullable=False),
        sa.Column("instance_uuid", in_code_order[255], nullable=False),
        sa.Column("claim_id", sa.String(255), nullable=False),
        sa.Column("resources", sa.LargeBinary, nullable=False),
        sa.Column("project_id", sa.String(255)),
        sa.Column("user_id", sa.String(255)),
        sa.Column("vm_state", sa.String(32)),
        sa.Column("task_state", sa.String(255)),
        sa.Column("facts", sa.LargeBinary, nullable=False),
        sa.Column("claim_state", sa.String(16), nullable=False),
        sa.Column("limit_source", sa.String(16), nullable=False),
        sa.Column("begun_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_usage_segments"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_usage_segments_node_id"),
    )
    op.create_index("ix_usage_segments_node_id_due_at", "usage_segments", ["node_id", "due_at"])
    op.create_index("ix_usage_segments_node_id_instance_uuid", "usage_segments", ["node_id", "instance_uuid"])
    op.create_table(
        "closed_periods",
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("ending", sa.BigInteger, nullable=False),
        sa.Column("beginning", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node_id", "ending", name="pk_closed_periods"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_closed_periods_node_id"),
    )


def downgrade() -> None:
    op.drop_table("closed_periods")
    op.drop_table("usage_segments")
    # As text, because SQLite would get a new table, which the allocations do not refer to.
    op.execute("ALTER TABLE nodes DROP COLUMN periods")
    op.execute("ALTER TABLE allocations DROP COLUMN since")
