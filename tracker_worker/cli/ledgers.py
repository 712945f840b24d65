# SPDX-License-Identifier: Apache-2.0
"""Access to the store, with or without a running worker. Nothing is created or upgraded. `outbox skip` and the commands
of ``cli.administration`` write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from oslo_config import cfg

from tracker_worker.cli.failures import NOT_FOUND, STORE_UNAVAILABLE, CommandFailed
from tracker_worker.domain.host import HostLedger
from tracker_worker.errors import DatabaseUnavailable
from tracker_worker.store.base import Store, Stream
from tracker_worker.store.sql import engines, migration
from tracker_worker.store.sql.location import configured_url
from tracker_worker.store.sql.store import SQLStore


def existing_url(conf: cfg.ConfigOpts) -> str:
    """Return the URL of the worker's database, in a form with which SQLite does not create the file.

    Raises CommandFailed: the SQLite file does not exist or is empty. Raises ConfigurationError: the URL is not usable.
    """
    text = configured_url(conf)
    engines.create_engine(text).dispose()  # raises ConfigurationError, which names the option, for an unusable URL
    url = sa.make_url(text)
    if url.get_backend_name() != "sqlite" or (url.database or "").startswith("file:"):
        return text
    path = Path(url.database or "").absolute()
    if not path.is_file():
        raise CommandFailed(
            f"there is no database {path}: no worker has run with this configuration", code=STORE_UNAVAILABLE
        )
    if not path.stat().st_size:
        raise CommandFailed(f"the database {path} is empty: {migration.UPGRADE_COMMAND}", code=STORE_UNAVAILABLE)
    # Not mode=ro: the last reader of a stopped worker's database would leave files that belong to the reader's account.
    opened = url.set(database=f"file:{quote(str(path))}").update_query_dict({"mode": "rw", "uri": "true"})
    return opened.render_as_string(hide_password=False)


@contextmanager
def opened_engine(conf: cfg.ConfigOpts) -> Iterator[sa.Engine]:
    """Open the existing database.

    Raises CommandFailed, ConfigurationError: as ``existing_url``.
    """
    engine = engines.create_engine(existing_url(conf))
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def opened_store(conf: cfg.ConfigOpts, *, patient: bool = False) -> Iterator[Store]:
    """Open the store. ``patient``: see ``SQLStore``.

    Raises CommandFailed: the database does not exist, or has the schema of another release. Raises ConfigurationError: the URL
    is not usable, or the database cannot be read.
    """
    with opened_engine(conf) as engine:
        problem = migration.schema_problem(engine)
        if problem:
            raise CommandFailed(problem, code=STORE_UNAVAILABLE)
        store = SQLStore(engine.url.render_as_string(hide_password=False), patient=patient)
        try:
            yield store
        except sa.exc.SQLAlchemyError as error:
            raise DatabaseUnavailable(
                f"the database cannot be read: {getattr(error, 'orig', None) or error}"
            ) from error
        finally:
            store.stop()


def load_host(store: Store, name: str) -> HostLedger:
    """Return the ledgers of the host.

    Raises CommandFailed: the database has no host of this name.
    """
    host = store.load_host(name)
    if host is None:
        raise CommandFailed(f"the database has no host {name}", code=NOT_FOUND, host=name)
    return host


def find_stream(store: Store, host: str, node: str) -> Stream:
    """Return the stream of these names, also if they are no longer those of a node.

    Raises CommandFailed: the database has no such stream.
    """
    streams = store.streams(host)
    found = [stream for stream in streams if stream.node == node]
    if not found:
        text = f"host {host} has no node {node}" if streams else f"the database has no host {host}"
        raise CommandFailed(text, code=NOT_FOUND, host=host, node=node)
    return found[0]


def load_hosts(store: Store, name: str | None = None) -> list[HostLedger]:
    """Return the ledgers of the host ``name``, or of all hosts in the order of their names if ``name`` is None.

    Raises CommandFailed: the database has no host of this name.
    """
    if name is not None:
        return [load_host(store, name)]
    loaded = [store.load_host(found) for found in store.host_names()]
    return [host for host in loaded if host is not None]
