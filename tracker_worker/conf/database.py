# SPDX-License-Identifier: Apache-2.0
"""[database]: where the ledgers are kept."""

from oslo_config import cfg

GROUP = "database"

OPTIONS = [
    cfg.StrOpt(
        "connection",
        secret=True,
        sample_default="sqlite:///<state_path>/tracker.sqlite",
        help="SQLAlchemy URL. The default is an SQLite file under [tracker] state_path. For production, or for several "
        "workers on several machines: postgresql+psycopg://user:password@host/name, with `tracker-worker[postgresql]`.",
    ),
    cfg.IntOpt(
        "conflict_retries",
        default=10,
        min=1,
        help="How often a commit is decided again at once after another worker was first, before it waits a little.",
    ),
    cfg.IntOpt(
        "inbox_retention_seconds",
        default=3600,
        min=60,
        help="How long a copy of a message that was processed is recognised. Must be longer than a client or the broker "
        "may take to deliver one again; each message costs a row for that long.",
    ),
]
