# SPDX-License-Identifier: Apache-2.0
"""The migrations of the schema, and the check that a database has the schema of this release.

Any thread may call these functions. Each raises ConfigurationError: the database cannot be reached or used; the text is one
sentence for the operator, without a password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tracker_worker.errors import ConfigurationError, DatabaseUnavailable
from tracker_worker.store.sql.location import url_without_password
from tracker_worker.store.sql.revisions import known_revisions, newest_revision
from tracker_worker.store.sql.rights import denied, missing_grants_sentence

# Alembic is imported where something is migrated: the import takes longer than most commands.
if TYPE_CHECKING:
    from alembic.config import Config

UPGRADE_COMMAND = "run 'tracker-worker db upgrade'"


_REVISIONS = sa.table("alembic_version", sa.column("version_num"))


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Upgrade the schema to ``revision`` in one transaction. Concurrent callers queue."""
    from alembic import command

    _migrate(engine, lambda config: command.upgrade(config, revision))


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Downgrade the schema to ``revision`` in one transaction. Concurrent callers queue."""
    from alembic import command

    _migrate(engine, lambda config: command.downgrade(config, revision))


def current(engine: sa.Engine) -> str | None:
    """Return the revision of the database; None: the database has no schema."""
    with _explained(engine), engine.connect() as connection:
        if not sa.inspect(connection).has_table(_REVISIONS.name):
            return None
        found = connection.execute(sa.select(_REVISIONS.c.version_num)).scalars().all()
    if len(found) > 1:
        raise _unusable(engine, f"its table {_REVISIONS.name} has {len(found)} rows: {', '.join(sorted(found))}")
    return found[0] if found else None


def head() -> str:
    """Return the revision that this release needs."""
    return newest_revision()


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
    return revision is None or revision in known_revisions()


def _migrate(engine: sa.Engine, migrate: Callable[[Config], None]) -> None:
    """Call ``migrate`` in one transaction that excludes every other migration."""
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with _explained(engine), engine.connect().execution_options(tracker_writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7214021)"))
        config.attributes["connection"] = connection
        try:
            migrate(config)
        except CommandError as error:
            raise _unusable(engine, str(error)) from error


@contextmanager
def _explained(engine: sa.Engine) -> Iterator[None]:
    """Turn errors of drivers into one sentence for the operator.

    Raises ConfigurationError: the database cannot be reached or used.
    """
    try:
        yield
    except SQLAlchemyError as error:
        original = getattr(error, "orig", None) or error
        raise _unusable(engine, denied(original) or str(original)) from error


def _unusable(engine: sa.Engine, why: str) -> DatabaseUnavailable:
    where = url_without_password(engine.url)
    return DatabaseUnavailable(f"the database {where} cannot be used: {' '.join(why.split())}")
