# SPDX-License-Identifier: Apache-2.0
"""[inventory]: options of the inventory drivers."""

from oslo_config import cfg

GROUP = "inventory"

OPTIONS = [
    cfg.StrOpt(
        "static_file",
        help="The YAML file for inventory_driver = static. It contains `nodes: {<node>: {vcpus:, memory_mb:, local_gb:, "
        "resources: {<class>: ...}, ...}}`, or the same per host under `hosts: {<host>: ...}`. The worker reads it at the "
        "start and on HUP.",
    ),
    cfg.IntOpt(
        "stale_after_seconds",
        default=600,
        min=0,
        max=2**31,
        mutable=True,
        help="Seconds for which a node whose driver no longer answers takes claims on its last inventory, from the first look "
        "that failed. After that it takes none until the driver answers; what is charged there stays charged. Raise it if "
        "drivers often fail for longer; a claim may then be granted on a machine that is broken.",
    ),
]
