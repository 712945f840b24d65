# SPDX-License-Identifier: Apache-2.0
"""[tracker]: which hosts, and how their ledgers decide."""

import socket

import platformdirs
from oslo_config import cfg

GROUP = "tracker"

OPTIONS = [
    cfg.StrOpt(
        "state_path",
        default=platformdirs.user_state_dir("tracker-worker"),
        sample_default="<where the platform keeps application state>",
        help="Directory for what must survive a restart, the SQLite database by default. Must be on a local disk: SQLite's "
        "locks and its write-ahead log do not work on network file systems.",
    ),
    cfg.ListOpt(
        "hosts",
        default=[socket.gethostname()],
        sample_default=["<the name of this machine>"],
        help="The hosts whose ledgers this worker keeps; each has its topic, <topic>.<host>. Two workers may serve the "
        "same host on the same database: one is active, the other stands by. More hosts cost a queue and some memory each.",
    ),
    cfg.StrOpt("topic", default="tracker", help="The RPC topic. Change it on every scheduler at the same time."),
    cfg.StrOpt(
        "inventory_driver",
        default="host",
        help="Who says what a node has: host (this machine), static (a YAML file, see [inventory] static_file), or the name "
        "of an entry point in tracker_worker.inventory.",
    ),
    cfg.IntOpt(
        "audit_interval_seconds",
        default=60,
        min=1,
        help="How often inventories are read and overdue claims expired. Shorter notices changes sooner and asks the "
        "drivers more often.",
    ),
    cfg.IntOpt(
        "claim_timeout_seconds",
        default=600,
        min=1,
        max=2**31,
        mutable=True,
        help="How long a build may take before its claim expires, for claims that do not say so themselves.",
    ),
    cfg.StrOpt(
        "expired_claims",
        default="keep",
        choices=[
            ("keep", "the instance is assumed to be built: it stays charged"),
            ("release", "what the claim was charged is released; choose it where a build that was lost never reports"),
        ],
        mutable=True,
        help="What becomes of an instance whose claim expires.",
    ),
    cfg.StrOpt(
        "missing_limit",
        default="unlimited",
        choices=[
            ("unlimited", "a resource without a limit is not limited"),
            ("capacity", "a resource without a limit is limited by what the node has"),
        ],
        mutable=True,
        help="What a claim's missing limit means. With capacity a scheduler that loses its limits cannot overcommit.",
    ),
    cfg.IntOpt(
        "reserved_host_memory_mb",
        default=512,
        min=0,
        help="Memory of each node that is kept for the host itself, counted as used.",
    ),
    cfg.IntOpt(
        "reserved_host_disk_mb",
        default=0,
        min=0,
        help="Disk of each node that is kept for the host itself, in MB, counted as used and rounded up to GB.",
    ),
]
