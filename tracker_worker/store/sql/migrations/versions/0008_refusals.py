# SPDX-License-Identifier: Apache-2.0
"""Refusals that made no event, for the history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "refusals",
        sa.Column("id", sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql"), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("instance_uuid", sa.String(255), nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_refusals"),
    )


def downgrade() -> None:
    op.drop_table("refusals")
