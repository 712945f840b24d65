# SPDX-License-Identifier: Apache-2.0
"""What a worker's user of PostgreSQL has to be granted, where the tables belong to another one. SQLite has no users."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa

from tracker_worker.store.sql.schema import metadata

INSUFFICIENT_PRIVILEGE = "42501"
"""The SQLSTATE of what a user may not do."""

TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
_REVISION = "alembic_version"
_DENIED = re.compile(r"permission denied for (table|sequence|schema) (\S+)")
_ALL_TABLE_RIGHTS = ", ".join(TABLE_RIGHTS)
# What this user lacks, of the tables that exist and of the sequences that number their rows. A table in a schema that this user
# may not use looks like one that is missing, so that the schema of a new database is looked at by its name.
_LACKING = sa.text(
    """
WITH relations AS MATERIALIZED (
    SELECT c.oid, c.relname, n.oid AS schema_oid, n.nspname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relname = ANY(:tables) AND (pg_table_is_visible(c.oid) OR n.nspname = 'public')
)
SELECT 0, format('USAGE ON SCHEMA %I', nspname) FROM relations
WHERE NOT has_schema_privilege(schema_oid, 'USAGE')
UNION
SELECT 1, format('%s ON %I', wanted.what, relname) FROM relations, unnest(CAST(:rights AS text[])) AS wanted(what)
WHERE (relname <> :revision OR wanted.what = 'SELECT') AND NOT has_table_privilege(relations.oid, wanted.what)
UNION
SELECT 2, format('USAGE ON SEQUENCE %I', s.relname)
FROM relations JOIN pg_depend d ON d.refobjid = relations.oid AND d.deptype = 'a'
    AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
JOIN pg_class s ON s.oid = d.objid
WHERE CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') ELSE FALSE END
ORDER BY 1, 2
"""
)


def missing_grants(connection: sa.Connection) -> list[str]:
    """What this user has to be granted so that a worker can work, as GRANT statements. Tables that do not exist are passed
    over."""
    tables = [*(table.name for table in metadata.sorted_tables), _REVISION]
    asked = {"tables": tables, "rights": list(TABLE_RIGHTS), "revision": _REVISION}
    user = connection.execute(sa.text("SELECT quote_ident(current_user)")).scalar_one()
    grants: dict[str, list[str]] = {}  # object -> rights
    for _, lacking in connection.execute(_LACKING, asked):
        right, _, target = lacking.partition(" ON ")
        grants.setdefault(target, []).append(right)
    return [f"GRANT {', '.join(_ordered(rights))} ON {target} TO {user}" for target, rights in grants.items()]


def missing_grants_sentence(connection: sa.Connection) -> str | None:
    """``missing_grants`` as one sentence for the operator; None: nothing is missing."""
    grants = missing_grants(connection)
    if not grants:
        return None
    return f"the user of [database] connection lacks rights: as the owner of the tables run: {'; '.join(grants)}"


def denied(error: Any) -> str | None:
    """What a database says of something that its user may not do, with what to grant; None: it is another error."""
    if getattr(error, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
        return None
    text = str(error).partition("\n")[0]
    found = _DENIED.search(text)
    if found is None:
        return text
    kind, name = found.groups()
    grant = {
        "table": f"GRANT {'SELECT' if name == _REVISION else _ALL_TABLE_RIGHTS} ON {name}",
        "sequence": f"GRANT USAGE ON SEQUENCE {name}",
        "schema": f"GRANT USAGE ON SCHEMA {name}",
    }[kind]
    return f"{text}: as the owner of the tables run: {grant} TO the user of [database] connection"


def _ordered(rights: list[str]) -> list[str]:
    return sorted(rights, key=lambda right: TABLE_RIGHTS.index(right) if right in TABLE_RIGHTS else 0)
