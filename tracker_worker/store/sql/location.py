# SPDX-License-Identifier: Apache-2.0
"""The database URL of a configuration."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

import sqlalchemy as sa
from oslo_config import cfg

from tracker_worker.conf.tracker import state_directory
from tracker_worker.errors import ConfigurationError
from tracker_worker.files import ensure_private_directory


def sqlite_url(path: Path) -> str:
    """Return the SQLAlchemy URL of an SQLite file, whatever characters its name has."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def sqlite_path(url: sa.URL) -> Path:
    """Return the path of the file that an SQLite URL names.

    Raises ConfigurationError: it names none.
    """
    database = url.database or ""
    if database in ("", ":memory:") or url.query.get("mode") == "memory":
        # In memory, every connection would have a database of its own.
        raise ConfigurationError("[database] connection names no file: give it as sqlite:////path/to/file")
    # SQLite's own form of a URL, in which the path is quoted.
    return Path(unquote(database.removeprefix("file:")) if database.startswith("file:") else database)


def url_without_password(url: sa.URL) -> str:
    """Return ``url`` as text for errors and logs, with ``***`` for the password and without the query, which may hold
    another one."""
    return url.set(query={}).render_as_string(hide_password=True)


def configured_url(conf: cfg.ConfigOpts) -> str:
    """Return the URL in ``[database] connection``, or the URL of an SQLite file in the state directory.

    Raises ConfigurationError: neither is known.
    """
    return conf.database.connection or sqlite_url(state_directory(conf) / "tracker.sqlite")


def prepared_url(conf: cfg.ConfigOpts) -> str:
    """Return ``configured_url``. Create the state directory if the SQLite file is to be in it; only its user can look into it,
    whatever the umask.

    Raises ConfigurationError: the state directory cannot be created, or is not writable.
    """
    if not conf.database.connection:
        state = state_directory(conf)
        try:
            ensure_private_directory(state)
        except OSError as error:
            raise ConfigurationError(f"[tracker] state_path {state} cannot be made: {error.strerror}") from error
        if not os.access(state, os.W_OK | os.X_OK):
            raise ConfigurationError(f"[tracker] state_path {state} is not writable")
    return configured_url(conf)


def place_of(conf: cfg.ConfigOpts) -> str:
    """Where the database is, and which option says so, for the log."""
    option = "[database] connection" if conf.database.connection else "[tracker] state_path"
    return f"{url_without_password(sa.make_url(configured_url(conf)))}, {option}"
