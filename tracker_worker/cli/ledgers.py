# SPDX-License-Identifier: Apache-2.0
"""Reading the store beside a worker, or without one. Nothing is made, upgraded or written that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from alembic.script import ScriptDirectory
from oslo_config import cfg

from tracker_worker.cli.context import CommandFailed
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.errors import ConfigurationError
from tracker_worker.store.base import Store
from tracker_worker.store.sql import engines
from tracker_worker.store.sql.location import configured_url
from tracker_worker.store.sql.store import SQLStore

_UPGRADE = "run 'tracker-worker db upgrade'"


def existing_url(conf: cfg.ConfigOpts) -> str:
    """The database that the worker of this configuration uses, in a form that does not make it.

    Raises CommandFailed when it is an SQLite file that is not there, ConfigurationError when the URL is none.
    """
    text = configured_url(conf)
    engines.create_engine(text).dispose()  # its errors are better than those below
    url = sa.make_url(text)
    if url.get_backend_name() != "sqlite" or (url.database or "").startswith("file:"):
        return text
    path = Path(url.database or "").absolute()
    if not path.is_file():
        raise CommandFailed(f"there is no database {path}: no worker has run with this configuration")
    if not path.stat().st_size:
        raise CommandFailed(f"the database {path} is empty: {_UPGRADE}")
    # Not mode=ro: the last reader of a stopped worker's database would leave files behind that are the reader's own.
    opened = url.set(database=f"file:{quote(str(path))}").update_query_dict({"mode": "rw", "uri": "true"})
    return opened.render_as_string(hide_password=False)


def behind(engine: sa.Engine) -> str | None:
    """Why this release cannot work with the database's schema, in one sentence; None when it can."""
    found, needed = engines.current(engine), engines.head()
    if found == needed:
        return None
    if found is None:
        return f"the database has no schema, revision {needed} is needed: {_UPGRADE}"
    if found not in known_revisions():
        return f"the database schema is at revision {found}, which this release does not know: use a newer release"
    return f"the database schema is at revision {found}, and {needed} is needed: {_UPGRADE}"


def known_revisions() -> set[str]:
    """Every revision of this release."""
    scripts = ScriptDirectory(str(Path(engines.__file__).parent / "migrations"))
    return {script.revision for script in scripts.walk_revisions()}


@contextmanager
def opened_engine(conf: cfg.ConfigOpts) -> Iterator[sa.Engine]:
    """The database, which must be there. Raises as ``existing_url``."""
    engine = engines.create_engine(existing_url(conf))
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def opened_store(conf: cfg.ConfigOpts) -> Iterator[Store]:
    """The store, to read only. Raises CommandFailed: there is none, its schema is another release's, or reading fails."""
    with opened_engine(conf) as engine:
        problem = behind(engine)
        if problem:
            raise CommandFailed(problem)
        store = SQLStore(engine.url.render_as_string(hide_password=False))
        try:
            yield store
        except sa.exc.SQLAlchemyError as error:
            raise ConfigurationError(f"the database cannot be read: {getattr(error, 'orig', None) or error}") from error
        finally:
            store.stop()


def load_host(store: Store, name: str) -> HostLedger:
    """Raises CommandFailed: there is no such host."""
    host = store.load_host(name)
    if host is None:
        raise CommandFailed(f"the database has no host {name}")
    return host


def load_hosts(store: Store, name: str | None = None) -> list[HostLedger]:
    """That host, or all of them in order of name. Raises CommandFailed: there is no such host."""
    if name is not None:
        return [load_host(store, name)]
    loaded = [store.load_host(found) for found in store.host_names()]
    return [host for host in loaded if host is not None]
