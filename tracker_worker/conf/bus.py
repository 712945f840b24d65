# SPDX-License-Identifier: Apache-2.0
"""[bus]: the worker's own queues. How to reach the broker is in oslo.messaging's options."""

from oslo_config import cfg

GROUP = "bus"

OPTIONS = [
    cfg.StrOpt(
        "queue_type",
        default="quorum",
        choices=[
            ("quorum", "replicated over the cluster; survives the loss of a broker node"),
            ("classic", "on one broker node; about a quarter faster, for single brokers"),
        ],
        help="Type of the worker's queues. A queue's type cannot be changed: delete the old queues when they are drained.",
    ),
    cfg.IntOpt(
        "prefetch",
        default=256,
        min=1,
        max=65535,
        help="How many messages the worker holds at most, shared out over the hosts it serves (at least one each). More "
        "makes larger batches under load, and more to deliver again after a crash.",
    ),
    cfg.StrOpt(
        "dead_letter_queue",
        default="tracker.dead",
        help="Where casts go that cannot be processed, with the reason in their headers. Watch its length.",
    ),
    cfg.IntOpt(
        "max_body_bytes",
        default=1048576,
        min=1024,
        help="Larger messages are refused. Each may be held in memory several times while it is processed.",
    ),
]
