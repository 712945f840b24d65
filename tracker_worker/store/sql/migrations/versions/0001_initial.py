# SPDX-License-Identifier: Apache-2.0
"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hosts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("topic", sa.String(255), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("lease_expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hosts"),
        sa.UniqueConstraint("name", name="uq_hosts_name"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("host_id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("inventory", sa.LargeBinary),
        sa.Column("vcpus", sa.BigInteger),
        sa.Column("vcpus_used", sa.BigInteger, nullable=False),
        sa.Column("memory_mb", sa.BigInteger),
        sa.Column("memory_mb_used", sa.BigInteger, nullable=False),
        sa.Column("local_gb", sa.BigInteger),
        sa.Column("local_gb_used", sa.BigInteger, nullable=False),
        sa.Column("running_vms", sa.BigInteger, nullable=False),
        sa.Column("current_workload", sa.BigInteger, nullable=False),
        sa.Column("io_workload", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
        sa.UniqueConstraint("host_id", "name", name="uq_nodes_host_id_name"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_nodes_host_id"),
    )
    op.create_table(
        "allocations",
        sa.Column("host_id", sa.Integer, nullable=False),
        sa.Column("instance_uuid", sa.String(255), nullable=False),
        sa.Column("node_id", sa.Integer, nullable=False),
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
        sa.PrimaryKeyConstraint("host_id", "instance_uuid", name="pk_allocations"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_allocations_host_id"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_allocations_node_id"),
    )
    op.create_table(
        "inbox",
        sa.Column("unique_id", sa.String(255), nullable=False),
        sa.Column("host_id", sa.Integer, nullable=False),
        sa.Column("reply", sa.LargeBinary, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("unique_id", name="pk_inbox"),
    )
    op.create_index("ix_inbox_host_id_received_at", "inbox", ["host_id", "received_at"])
    op.create_table(
        "attempts",
        sa.Column("unique_id", sa.String(255), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("unique_id", name="pk_attempts"),
    )
    op.create_table(
        "outbox",
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("message_id", sa.String(36), nullable=False),
        sa.Column("event_type", sa.String(64), nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node_id", "sequence", name="pk_outbox"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_outbox_node_id"),
    )
    op.create_table(
        "relay_cursor",
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_relay_cursor"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_relay_cursor_node_id"),
    )


def downgrade() -> None:
    for table in ("relay_cursor", "outbox", "attempts", "inbox", "allocations", "nodes", "hosts"):
        op.drop_table(table)
