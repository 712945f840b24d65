# SPDX-License-Identifier: Apache-2.0
"""What ``tracker-worker --version`` prints, without importing any of the packages that it names."""

from __future__ import annotations

import platform
from importlib.metadata import version

from tracker_worker.cli.context import PROJECT


def version_line() -> str:
    """The release, with the newest versions that it speaks and needs: of the RPC API, of the database's schema, of Python and
    of oslo.messaging."""
    from tracker_worker.store.sql.revisions import newest_revision
    from tracker_worker.wire.versions import VERSION

    return (
        f"{PROJECT} {version(PROJECT)} (API {VERSION}, schema {newest_revision()}, Python {platform.python_version()}, "
        f"oslo.messaging {version('oslo.messaging')})"
    )
