# SPDX-License-Identifier: Apache-2.0
"""The database's schema, and the rights of its user."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from tracker_worker.cli.check.findings import Problem, enumerated, error
from tracker_worker.cli.check.subjects import Database
from tracker_worker.store.sql import migration
from tracker_worker.store.sql.schema import metadata
from tracker_worker.text import counted

_VERSION_TABLE = "alembic_version"
_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
# Every other table needs _ALL.
_NEEDED: dict[str, Sequence[str]] = {
    _VERSION_TABLE: ("SELECT",),
    "histories": ("SELECT", "INSERT"),
    "streams": ("SELECT", "INSERT", "UPDATE"),
}
# Where the tables are: the first schema that has them.
_SCHEMA = """
SELECT n.nspname AS name, has_schema_privilege(n.oid, 'USAGE') AS may_use, pg_get_userbyid(c.relowner) AS owner
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = :version_table AND c.relkind = 'r' ORDER BY n.nspname <> 'public', n.nspname LIMIT 1"""
_TABLES = """
SELECT c.relname AS name, has_table_privilege(c.oid, 'SELECT') AS "SELECT", has_table_privilege(c.oid, 'INSERT') AS "INSERT",
    has_table_privilege(c.oid, 'UPDATE') AS "UPDATE", has_table_privilege(c.oid, 'DELETE') AS "DELETE"
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relkind = 'r' AND c.relname = ANY (:names) ORDER BY c.relname"""
_SEQUENCES = """
SELECT s.relname AS name, has_sequence_privilege(s.oid, 'USAGE') AS may_use
FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.deptype = 'a' JOIN pg_class c ON c.oid = d.refobjid
    JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND s.relkind = 'S' AND c.relname = ANY (:names) ORDER BY s.relname"""


def check_schema(database: Database) -> Iterator[Problem]:
    """The schema is that of this release."""
    problem = migration.schema_problem(database.engine)
    if problem is None:
        return
    if "does not know" in problem:
        yield error(
            f"{problem}; it needs revision {migration.head()} ([database] connection): a newer release has upgraded it",
            "pip install --upgrade tracker-worker",
        )
    else:
        yield error(problem, database.installation.command("db", "upgrade"))


def check_privileges(database: Database) -> Iterator[Problem]:
    """The user of PostgreSQL may read and write the tables, and use their sequences."""
    if database.engine.dialect.name != "postgresql":
        return
    names = [_VERSION_TABLE, *(table.name for table in metadata.sorted_tables)]
    with database.engine.connect() as connection:
        user, name = connection.execute(sa.text("SELECT current_user, current_database()")).one()
        schema = connection.execute(sa.text(_SCHEMA), {"version_table": _VERSION_TABLE}).one_or_none()
        if schema is None:
            return  # the check of the schema says so
        given = {"schema": schema.name, "names": names}
        tables = connection.execute(sa.text(_TABLES), given).mappings().all()
        sequences = connection.execute(sa.text(_SEQUENCES), given).all()
        quote = connection.dialect.identifier_preparer.quote_identifier
    missing, grants = [], []
    to = f"TO {quote(user)}"
    if not schema.may_use:
        missing.append(f"USAGE on the schema {schema.name}")
        grants.append(f"GRANT USAGE ON SCHEMA {quote(schema.name)} {to}")
    for table in tables:
        lacking = ", ".join(right for right in _NEEDED.get(table["name"], _ALL) if not table[right])
        if lacking:
            missing.append(f"{lacking} on {table['name']}")
            grants.append(f"GRANT {lacking} ON {quote(schema.name)}.{quote(table['name'])} {to}")
    for sequence in sequences:
        if not sequence.may_use:
            missing.append(f"USAGE on the sequence {sequence.name}")
            grants.append(f"GRANT USAGE ON SEQUENCE {quote(schema.name)}.{quote(sequence.name)} {to}")
    if missing:
        url = database.engine.url
        login = ["-h", url.host or "localhost", "-p", str(url.port or 5432), "-U", schema.owner, "-d", name]
        yield error(
            f"user {user} of [database] connection lacks {counted(len(missing), 'right')} in the database {name}: "
            f"{enumerated(missing)}",
            shlex.join(["psql", *login, "-c", "; ".join(grants)]),
        )
