# SPDX-License-Identifier: Apache-2.0
"""A cursor for each topic, dead letters that the broker does not take, and the broker's alarm.

The topics are in the configuration, which a migration does not know: a node's cursor gets the topic '', and the worker hands it
over to the topics when it starts.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hosts", sa.Column("blocked_since", sa.BigInteger))
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("parked_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("exchange", sa.String(255), nullable=False),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("properties", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letters"),
        sqlite_autoincrement=True,
    )
    _keep_cursors("SELECT node_id, sequence FROM relay_cursor")
    op.create_table(
        "relay_cursor",
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("topic", sa.String(255), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("refused_sequence", sa.BigInteger),
        sa.Column("refused_reason", sa.Text),
        sa.PrimaryKeyConstraint("node_id", "topic", name="pk_relay_cursor"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_relay_cursor_node_id"),
    )
    op.execute("INSERT INTO relay_cursor (node_id, topic, sequence) SELECT node_id, '', sequence FROM kept_cursors")
    op.drop_table("kept_cursors")


def downgrade() -> None:
    # What one topic lacks is published again on all: consumers drop copies, and cannot make up what is missing.
    _keep_cursors(
        "SELECT nodes.id AS node_id, coalesce(min(relay_cursor.sequence), 0) AS sequence"
        " FROM nodes LEFT JOIN relay_cursor ON relay_cursor.node_id = nodes.id GROUP BY nodes.id"
    )
    op.create_table(
        "relay_cursor",
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_relay_cursor"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_relay_cursor_node_id"),
    )
    op.execute("INSERT INTO relay_cursor (node_id, sequence) SELECT node_id, sequence FROM kept_cursors")
    op.drop_table("kept_cursors")
    op.drop_table("dead_letters")
    # As text, because SQLite would get a new table, which the nodes do not refer to.
    op.execute("ALTER TABLE hosts DROP COLUMN blocked_since")


def _keep_cursors(query: str) -> None:
    """Put the rows of ``query`` aside and drop the table of cursors."""
    op.execute(f"CREATE TABLE kept_cursors AS {query}")
    op.drop_table("relay_cursor")
