# SPDX-License-Identifier: Apache-2.0
"""[oslo_policy]: who may call which RPC methods. It has the option of oslo.policy that a worker reads."""

from oslo_config import cfg

GROUP = "oslo_policy"

OPTIONS = [
    cfg.StrOpt(
        "policy_file",
        default="policy.yaml",
        mutable=True,
        help="The YAML file with the rules of oslo.policy that say who may call which RPC methods; a relative path is looked "
        "for beside the configuration file. The worker reads it at the start and on HUP. Without the file everybody may call "
        "every method; a file of another name than the default must exist. A rule that not everybody passes costs each request "
        "that it is asked about some ten microseconds. Rules divide the work among services that say who they are: who may "
        "publish requests may write any name into them.",
    ),
]
