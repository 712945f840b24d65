# SPDX-License-Identifier: Apache-2.0
"""[tracker]: the hosts of the worker, and the rules for their claims."""

import socket
from pathlib import Path

import platformdirs
from oslo_config import cfg

from tracker_worker.errors import ConfigurationError

GROUP = "tracker"


def _default_state_path() -> str | None:
    try:
        return platformdirs.user_state_dir("tracker-worker")
    except RuntimeError:
        return None  # there is no home directory


def state_directory(conf: cfg.ConfigOpts) -> Path:
    """The directory of ``[tracker] state_path``. Raises ConfigurationError: there is none without a home directory."""
    path = conf.tracker.state_path
    if path is None:
        raise ConfigurationError(
            "there is no home directory, where the state would be by default: set [tracker] state_path"
        )
    if not path:
        raise ConfigurationError("[tracker] state_path is empty")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"[tracker] state_path {path}: there is no such home directory") from error


OPTIONS = [
    cfg.StrOpt(
        "state_path",
        default=_default_state_path(),
        sample_default="<where the platform keeps application state>",
        help="The directory for data that must survive a restart, which is the SQLite database by default. It must be on a "
        "local disk, because SQLite's locks and write-ahead log do not work on network file systems.",
    ),
    cfg.ListOpt(
        "hosts",
        default=[socket.gethostname()],
        sample_default=["<the name of this machine>"],
        help="The hosts whose ledgers this worker keeps. Each host has its own topic, <topic>.<host>, and costs a queue and "
        "some memory. Two workers may serve the same host on the same database: one is active, the other is the standby.",
    ),
    cfg.StrOpt("topic", default="tracker", help="The RPC topic. Change it on all schedulers at the same time."),
    cfg.StrOpt(
        "inventory_driver",
        default="host",
        help="The driver that reports the inventory of nodes: host (this machine), static (a YAML file, see [inventory] "
        "static_file), or the name of an entry point in tracker_worker.inventory.",
    ),
    cfg.IntOpt(
        "audit_interval_seconds",
        default=60,
        min=1,
        help="Seconds between audits, which read inventories and expire overdue claims. With a shorter interval the worker "
        "notices changes sooner and calls the drivers more often.",
    ),
    cfg.IntOpt(
        "claim_timeout_seconds",
        default=600,
        min=1,
        max=2**31,
        mutable=True,
        help="Seconds that a build may take before its claim expires, for claims that give no timeout of their own.",
    ),
    cfg.StrOpt(
        "expired_claims",
        default="keep",
        choices=[
            ("keep", "the instance is assumed to be built and stays charged"),
            ("release", "the allocation is released; choose it if a build that was lost never reports"),
        ],
        mutable=True,
        help="What happens to the allocation when a claim expires, unless the claim says otherwise. An instance that was "
        "reported built stays charged in any case.",
    ),
    cfg.IntOpt(
        "deletion_memory_seconds",
        default=600,
        min=0,
        max=2**31,
        mutable=True,
        help="Seconds for which the reported deletion of an instance that is not charged is remembered: a claim for it is "
        "refused in that time. 0 switches this off. Raise it if claims may come later than that after the deletion of "
        "their instance. Each remembered deletion costs a row; at most 100000 a host are kept.",
    ),
    cfg.IntOpt(
        "move_memory_hours",
        default=168,
        min=1,
        max=24 * 366,
        mutable=True,
        help="Hours for which a move is known after it has begun, if nothing is charged for it any more. A step of an older "
        "move is refused. Raise it if a host may be down for longer and be told of its moves after that.",
    ),
    cfg.IntOpt(
        "move_confirm_seconds",
        default=0,
        min=0,
        max=2**31,
        mutable=True,
        help="Seconds after the hand-over of a resize or a migration after which the source releases what it holds for a "
        "revert. 0: it waits for a confirmation, however long that takes.",
    ),
    cfg.StrOpt(
        "missing_owner",
        default="allow",
        choices=[
            ("allow", "it is charged to nobody: notifications have an empty tenant_id"),
            ("refuse", "it is refused; choose it if everything is billed"),
        ],
        mutable=True,
        help="What happens to a claim when neither its instance nor the context of the request names a project.",
    ),
    cfg.StrOpt(
        "missing_limit",
        default="unlimited",
        choices=[
            ("unlimited", "a resource without a limit is not limited"),
            (
                "capacity",
                "a resource without a limit is limited by the node's capacity: what is not reserved, times its "
                "allocation ratio",
            ),
        ],
        mutable=True,
        help="The meaning of a limit that a claim does not give. Choose capacity if a scheduler that loses its limits must not "
        "overcommit.",
    ),
    cfg.IntOpt(
        "reserved_host_vcpus",
        default=0,
        min=0,
        help="Virtual CPUs of each node that are kept for the host itself. They count as used. An inventory that says what it "
        "reserves of a class overrides this option, and those below, for its node.",
    ),
    cfg.IntOpt(
        "reserved_host_memory_mb",
        default=512,
        min=0,
        help="Memory of each node that is kept for the host itself, in MB. It counts as used.",
    ),
    cfg.IntOpt(
        "reserved_host_disk_mb",
        default=0,
        min=0,
        help="Disk of each node that is kept for the host itself, in MB, rounded up to GB. It counts as used.",
    ),
    cfg.IntOpt(
        "refusals_kept",
        default=10000,
        min=0,
        max=1_000_000,
        mutable=True,
        help="Refused requests that the database keeps for the command history, beside those that have a notification; the "
        "oldest are deleted. 10000 of them take some 5 MB. 0: none is kept.",
    ),
    cfg.IntOpt(
        "stall_seconds",
        default=30,
        min=1,
        max=3600,
        help="Seconds without a turn of the engine after which the process ends with exit code 1, so that a standby takes over "
        "and the service manager restarts it. Waiting for the database within its time limits (10 s) counts as turning. Raise "
        "it on a machine that is overloaded for longer; requests wait for that time in a worker that hangs.",
    ),
    cfg.IntOpt(
        "stop_seconds",
        default=10,
        min=1,
        max=3600,
        help="Seconds that a stop may take after TERM or INT. What is not done by then is left to the next start, which loses "
        "nothing. Keep it below the time after which the service manager kills the process.",
    ),
]
