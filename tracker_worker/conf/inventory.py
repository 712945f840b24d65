# SPDX-License-Identifier: Apache-2.0
"""[inventory]: what the inventory drivers need."""

from oslo_config import cfg

GROUP = "inventory"

OPTIONS = [
    cfg.StrOpt(
        "static_file",
        help="For inventory_driver = static: a YAML file with `nodes: {<node>: {vcpus:, memory_mb:, local_gb:, ...}}`, or "
        "the same per host under `hosts: {<host>: ...}`. Read at start and on HUP.",
    ),
]
