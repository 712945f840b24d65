# SPDX-License-Identifier: Apache-2.0
"""Where a configuration keeps its ledgers."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa
from oslo_config import cfg

from tracker_worker.errors import ConfigurationError


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of an SQLite file, whatever characters its name has."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def configured_url(conf: cfg.ConfigOpts) -> str:
    """What ``[database] connection`` says, or an SQLite file under the state directory."""
    default = sqlite_url(Path(conf.tracker.state_path).expanduser() / "tracker.sqlite")
    return conf.database.connection or default


def prepared_url(conf: cfg.ConfigOpts) -> str:
    """The same; the state directory is made where it is wanted.

    Raises ConfigurationError: it cannot be made or written to.
    """
    state = Path(conf.tracker.state_path).expanduser()
    if not conf.database.connection:
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"[tracker] state_path {state} cannot be made: {error.strerror}") from error
        if not os.access(state, os.W_OK | os.X_OK):
            raise ConfigurationError(f"[tracker] state_path {state} is not writable")
    return configured_url(conf)
