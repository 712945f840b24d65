# SPDX-License-Identifier: Apache-2.0
"""The database as a check sees it: opened as it is, or why it cannot be."""

from __future__ import annotations

import shlex

import sqlalchemy as sa

from tracker_worker.cli.check.findings import Problem, error, warning
from tracker_worker.cli.check.subjects import Installation
from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.ledgers import existing_url
from tracker_worker.errors import ConfigurationError
from tracker_worker.store.sql.location import configured_url
from tracker_worker.store.sql.store import SQLStore

_OPTION = "[database] connection"


def open_store(installation: Installation) -> SQLStore | Problem:
    """The store over the database of the configuration, which answers; or why it does not."""
    try:
        store = SQLStore(existing_url(installation.conf))
    except CommandFailed as missing:
        # A worker on SQLite makes its database.
        option = _OPTION if installation.conf.database.connection else "[tracker] state_path"
        return warning(f"{missing} ({option})", installation.command("db", "upgrade"))
    except ConfigurationError as problem:
        return error(str(problem), f"{_OPTION} = postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE")
    try:
        with store.engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError as failure:
        store.stop()
        why = " ".join(str(getattr(failure, "orig", None) or failure).split())
        return error(f"the database of {_OPTION} cannot be used: {why}", _cure(installation, why))
    return store


def _cure(installation: Installation, why: str) -> str:
    url = sa.make_url(configured_url(installation.conf))
    if url.get_backend_name() == "sqlite":
        return shlex.join(["sqlite3", url.database or "", "PRAGMA integrity_check"])
    server = ["-h", url.host or "localhost", "-p", str(url.port or 5432)]
    user, database = url.username or "", url.database or ""
    if "password authentication failed" in why or "role" in why:
        role = '"' + user.replace('"', '""') + '"'
        return shlex.join(["psql", *server, "-U", "postgres", "-c", f"\\password {role}"])
    if "does not exist" in why:
        return shlex.join(["createdb", *server, "--owner", user, database])
    return "systemctl start postgresql"
