# SPDX-License-Identifier: Apache-2.0
"""Databases with a schema."""

from __future__ import annotations

from tracker_worker.store.sql.engines import create_engine
from tracker_worker.store.sql.migration import upgrade


def migrated(url: str) -> str:
    """Create the schema in the database of ``url`` and return ``url``."""
    engine = create_engine(url)
    upgrade(engine)
    engine.dispose()
    return url
