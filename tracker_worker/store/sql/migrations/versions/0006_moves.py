# SPDX-License-Identifier: Apache-2.0
"""Moves, of which one at a time is under way for an instance."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    in_code_order = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
    op.create_table(
        "moves",
        sa.Column("id", in_code_order, nullable=False),
        sa.Column("host_id", sa.Integer, nullable=False),
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("instance_uuid", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("from_host", sa.String(255)),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", "host_id", name="pk_moves"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_moves_host_id"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_moves_node_id"),
    )
    op.create_index("ix_moves_host_id", "moves", ["host_id"])
    op.create_index("ix_moves_kind_state", "moves", ["kind", "state"])
    op.create_index(
        "uq_allocations_incoming",
        "allocations",
        ["instance_uuid"],
        unique=True,
        sqlite_where=sa.text("role = 'incoming'"),
        postgresql_where=sa.text("role = 'incoming'"),
    )


def downgrade() -> None:
    op.drop_index("uq_allocations_incoming", "allocations")
    op.drop_table("moves")
