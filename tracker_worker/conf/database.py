# SPDX-License-Identifier: Apache-2.0
"""[database]: the database that keeps the ledgers."""

from oslo_config import cfg

GROUP = "database"

OPTIONS = [
    cfg.StrOpt(
        "connection",
        secret=True,
        sample_default="sqlite:///<state_path>/tracker.sqlite",
        help="The SQLAlchemy URL of the database. The default is an SQLite file in [tracker] state_path. For production, or "
        "for workers on several machines, set postgresql+psycopg://user:password@host/name and install "
        "the package with its extra `postgresql`.",
    ),
    cfg.IntOpt(
        "inbox_retention_seconds",
        default=3600,
        min=60,
        help="Seconds for which the worker recognises copies of a message that it has processed. Must be longer than the time "
        "in which a client or the broker may deliver a message again. Each message costs a row for that time.",
    ),
]
