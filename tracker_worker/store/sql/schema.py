# SPDX-License-Identifier: Apache-2.0
"""The tables. Times are microseconds since the epoch. Vectors, facts and inventories are msgpack; payloads and replies are the
JSON bytes that go on the wire. A change in this module needs a migration; a test compares the tables with the migrations."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Text whose order is that of the code points on every database.
_IN_CODE_ORDER = {
    length: String(length).with_variant(String(length, collation="C"), "postgresql") for length in (36, 255)
}

hosts = Table(
    "hosts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("topic", String(255), nullable=False),
    Column("version", String(64), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Column("lease_owner", String(255)),
    Column("lease_expires_at", BigInteger, nullable=False, default=0),
    # Since when the broker has taken no messages of the holder of the lease.
    Column("blocked_since", BigInteger),
    # The last two tokens that an active worker has put on the broker: a database with older ones is a copy.
    Column("token", String(36)),
    Column("previous_token", String(36)),
    sqlite_autoincrement=True,  # an id is never used again
)

# The workers that serve hosts, as active ones or as standbys: each says so when it renews its leases. ``hosts`` are the ids of
# hosts, as msgpack.
workers = Table(
    "workers",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("hosts", LargeBinary, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# The histories of this database, the present one last. No two have the same predecessor.
histories = Table(
    "histories",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("ledger_id", String(36), nullable=False, unique=True),
    Column("since", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("predecessor", String(36), unique=True),
)

# The events of a name. A node points to the stream of its name; a stream outlives its node, so that no number comes twice.
# ``sequence`` and ``occurred_at`` are those of the last event.
streams = Table(
    "streams",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", String(255), nullable=False),
    Column("node", String(255), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    # That of the last node that has left the name: a node that comes to it begins there.
    Column("generation", BigInteger, nullable=False),
    UniqueConstraint("host", "node"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host_id", ForeignKey(hosts.c.id), nullable=False),
    Column("name", String(255), nullable=False),
    Column("stream_id", ForeignKey(streams.c.id), nullable=False, unique=True),
    Column("generation", BigInteger, nullable=False),
    Column("life", LargeBinary, nullable=False),
    Column("inventory", LargeBinary),
    # A scheduler may read these columns with SQL. Every change of the ledger writes them; the store reads them only to
    # report drift.
    Column("state", String(16), nullable=False),
    Column("vcpus", BigInteger),
    Column("vcpus_used", BigInteger, nullable=False),
    Column("memory_mb", BigInteger),
    Column("memory_mb_used", BigInteger, nullable=False),
    Column("local_gb", BigInteger),
    Column("local_gb_used", BigInteger, nullable=False),
    Column("running_vms", BigInteger, nullable=False),
    Column("current_workload", BigInteger, nullable=False),
    Column("io_workload", BigInteger, nullable=False),
    # A JSON object: custom class -> its total and what is used; null where there is none.
    Column("custom_resources", Text),
    # How far its periods are closed, as msgpack; null before its first event.
    Column("periods", LargeBinary),
    UniqueConstraint("host_id", "name"),
    sqlite_autoincrement=True,  # an id is never used again
)

# One row is an allocation and the claim that charged it. The unique constraint prevents that an instance is charged to two
# nodes of a host; it begins with the instance, so that all allocations can be read page by page in the order of instances.
allocations = Table(
    "allocations",
    metadata,
    Column("id", _IN_CODE_ORDER[36], primary_key=True),
    Column("host_id", ForeignKey(hosts.c.id), nullable=False, index=True),
    Column("instance_uuid", _IN_CODE_ORDER[255], nullable=False),
    Column("role", String(16), nullable=False),
    Column("node_id", ForeignKey(nodes.c.id), nullable=False),
    Column("claim_id", String(255), nullable=False),
    Column("resources", LargeBinary, nullable=False),
    Column("project_id", String(255)),
    Column("user_id", String(255)),
    Column("vm_state", String(32)),
    Column("task_state", String(255)),
    Column("facts", LargeBinary, nullable=False),
    Column("claim_state", String(16), nullable=False),
    Column("limit_source", String(16), nullable=False),
    Column("begun_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("on_expiry", String(8)),
    Column("built", Boolean, nullable=False),
    # From when on an instance is charged as it is now: what it was before is in usage_segments.
    Column("since", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("instance_uuid", "host_id", "role"),
    # One move of an instance is under way in a ledger.
    Index(
        "uq_allocations_incoming",
        "instance_uuid",
        unique=True,
        sqlite_where=text("role = 'incoming'"),
        postgresql_where=text("role = 'incoming'"),
    ),
)

# What each host knows of the moves from and to it. The node is the one whose generation says that this has changed. ``open``:
# the host is charged for what is incoming or on hold. ``record`` is msgpack.
moves = Table(
    "moves",
    metadata,
    Column("id", _IN_CODE_ORDER[255], primary_key=True),
    Column("host_id", ForeignKey(hosts.c.id), primary_key=True, index=True),
    Column("node_id", ForeignKey(nodes.c.id), nullable=False),
    Column("instance_uuid", String(255), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("open", Boolean, nullable=False),
    Column("from_host", String(255)),
    Column("record", LargeBinary, nullable=False),
    Index(None, "kind", "state"),
)

# What nodes were charged for instances, by time. ``since`` to ``until`` is what a bill has, ``holds_until`` up to when it was
# right, and ``adjusts`` 1 or -1 of an adjustment, else 0. ``due_at``: the period that has this time is the last one to tell it
# in: it is ``until``, or when an adjustment was noted. The other columns are those of the allocation.
usage_segments = Table(
    "usage_segments",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("node_id", ForeignKey(nodes.c.id), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("holds_until", BigInteger, nullable=False),
    Column("adjusts", SmallInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("id", _IN_CODE_ORDER[36], nullable=False),
    Column("instance_uuid", _IN_CODE_ORDER[255], nullable=False),
    Column("claim_id", String(255), nullable=False),
    Column("resources", LargeBinary, nullable=False),
    Column("project_id", String(255)),
    Column("user_id", String(255)),
    Column("vm_state", String(32)),
    Column("task_state", String(255)),
    Column("facts", LargeBinary, nullable=False),
    Column("claim_state", String(16), nullable=False),
    Column("limit_source", String(16), nullable=False),
    Column("begun_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index(None, "node_id", "due_at"),
    Index(None, "node_id", "instance_uuid"),
)

# The periods of nodes that are closed: of which one is it what an adjustment changes?
closed_periods = Table(
    "closed_periods",
    metadata,
    Column("node_id", ForeignKey(nodes.c.id), primary_key=True),
    Column("ending", BigInteger, primary_key=True),
    Column("beginning", BigInteger, nullable=False),
)

# Deletions of instances that were not charged when they were reported. The node is the one whose generation says that they
# have changed.
deletions = Table(
    "deletions",
    metadata,
    Column("host_id", ForeignKey(hosts.c.id), primary_key=True),
    Column("instance_uuid", String(255), primary_key=True),
    Column("node_id", ForeignKey(nodes.c.id), nullable=False),
    Column("reported_at", BigInteger, nullable=False),
)

inbox = Table(
    "inbox",
    metadata,
    Column("unique_id", String(255), primary_key=True),
    # Without a foreign key: the database would look the host up for every message.
    Column("host_id", Integer, nullable=False),
    Column("reply", LargeBinary, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Index(None, "host_id", "received_at"),
)

# Counts of the attempts at casts whose handling failed unexpectedly, until the worker parks the cast.
attempts = Table(
    "attempts",
    metadata,
    Column("unique_id", String(255), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("last_at", BigInteger, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("stream_id", ForeignKey(streams.c.id), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("message_id", String(36), nullable=False),
    Column("event_type", String(64), nullable=False),
    Column("priority", String(16), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    # A JSON object: the request that caused the event, and who sent it.
    Column("asked", LargeBinary, nullable=False),
)

# Up to ``sequence``, the broker has confirmed a stream's notifications on a topic. The topic '' is no topic: it remembers where
# a stream was that has no topics now.
relay_cursor = Table(
    "relay_cursor",
    metadata,
    Column("stream_id", ForeignKey(streams.c.id), primary_key=True),
    Column("topic", String(255), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("refused_sequence", BigInteger),
    Column("refused_reason", Text),
)

# Requests that were refused and made no event; the oldest ones are deleted. ``record`` is JSON, for the history.
refusals = Table(
    "refusals",
    metadata,
    Column("id", _IN_CODE_ORDER[36], primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("host", String(255), nullable=False),
    Column("node", String(255), nullable=False),
    Column("instance_uuid", String(255), nullable=False),
    Column("record", LargeBinary, nullable=False),
)

# Dead letters that the broker does not take. ``size`` is what counts for the limit.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", String(255), nullable=False),
    Column("parked_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("exchange", String(255), nullable=False),
    Column("routing_key", String(255), nullable=False),
    Column("properties", LargeBinary, nullable=False),
    Column("headers", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    sqlite_autoincrement=True,  # an id is never used again
)
