# SPDX-License-Identifier: Apache-2.0
"""[inventory]: options of the inventory drivers."""

from oslo_config import cfg

GROUP = "inventory"

OPTIONS = [
    cfg.StrOpt(
        "static_file",
        help="The YAML file for inventory_driver = static. It contains `nodes: {<node>: {vcpus:, memory_mb:, local_gb:, "
        "...}}`, or the same per host under `hosts: {<host>: ...}`. The worker reads it at the start and on HUP.",
    ),
]
