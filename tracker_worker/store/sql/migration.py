# SPDX-License-Identifier: Apache-2.0
"""The migrations of the schema, and the check that a database has the schema of this release.

Any thread may call these functions. Each raises ConfigurationError: the database cannot be reached or used; the text is one
sentence for the operator, without a password.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from tracker_worker.errors import ConfigurationError, DatabaseUnavailable
from tracker_worker.store.sql.location import url_without_password
from tracker_worker.store.sql.rights import denied, missing_grants_sentence

UPGRADE_COMMAND = "run 'tracker-worker db upgrade'"


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Upgrade the schema to ``revision`` in one transaction. Concurrent callers queue."""
    with _migrating(engine) as config:
        command.upgrade(config, revision)


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Downgrade the schema to ``revision`` in one transaction. Concurrent callers queue."""
    with _migrating(engine) as config:
        command.downgrade(config, revision)


def current(engine: sa.Engine) -> str | None:
    """Return the revision of the database; None: the database has no schema."""
    with _explained(engine), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """Return the revision that this release needs."""
    revision = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert revision is not None
    return revision


def schema_problem(engine: sa.Engine) -> str | None:
    """Return one sentence that says why this release cannot use the schema of the database; None: it can."""
    return _problem(current(engine))


def ensure_schema(engine: sa.Engine) -> None:
    """Create or upgrade the schema of an SQLite database; require that any other database has the schema of this release.

    Raises ConfigurationError: the schema is missing, older than this release needs, or of a revision that this release does
    not know; or the database cannot be reached or used.
    """
    found = current(engine)
    problem = _problem(found)
    if problem is None:
        return
    if engine.dialect.name != "sqlite" or not _is_known(found):
        raise ConfigurationError(problem)
    upgrade(engine)


def check_rights(engine: sa.Engine) -> None:
    """Raises ConfigurationError: a worker's user of PostgreSQL lacks rights; the text says what to grant."""
    if engine.dialect.name != "postgresql":
        return
    with _explained(engine), engine.connect() as connection:
        lacking = missing_grants_sentence(connection)
    if lacking is not None:
        raise ConfigurationError(lacking)


def _problem(found: str | None) -> str | None:
    """The result of ``schema_problem`` for a database at revision ``found``."""
    needed = head()
    if found == needed:
        return None
    if not _is_known(found):
        return f"the database schema is at revision {found}, which this release does not know"
    at = f"at revision {found}" if found else "missing"
    return f"the database schema is {at}, not at {needed}: {UPGRADE_COMMAND}"


def _is_known(revision: str | None) -> bool:
    """Return whether this release can upgrade a database at ``revision``."""
    scripts = ScriptDirectory.from_config(_alembic())
    return revision is None or revision in {script.revision for script in scripts.walk_revisions()}


def _alembic(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _migrating(engine: sa.Engine) -> Iterator[Config]:
    """Begin one transaction that excludes every other migration."""
    with _explained(engine), engine.connect().execution_options(tracker_writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7214021)"))
        yield _alembic(connection)


@contextmanager
def _explained(engine: sa.Engine) -> Iterator[None]:
    """Turn errors of drivers and of alembic into one sentence for the operator.

    Raises ConfigurationError: the database cannot be reached or used, or the migration failed.
    """
    try:
        yield
    except (SQLAlchemyError, CommandError) as error:
        original = getattr(error, "orig", None) or error
        why = " ".join((denied(original) or str(original)).split())
        where = url_without_password(engine.url)
        raise DatabaseUnavailable(f"the database {where} cannot be used: {why}") from error
