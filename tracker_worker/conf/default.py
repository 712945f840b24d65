# SPDX-License-Identifier: Apache-2.0
"""[DEFAULT]: what holds for the whole installation. The options of the oslo libraries in this group are not of this package."""

from oslo_config import cfg

GROUP = "DEFAULT"

OPTIONS = [
    cfg.StrOpt(
        "region",
        default="",
        help="The name of this installation, which every notification carries. Set it if consumers such as billing hear "
        "several installations. It may be changed at any time; notifications that were made before keep the old name.",
    ),
]
