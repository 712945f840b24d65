# SPDX-License-Identifier: Apache-2.0
"""[notifications]: what billing hears."""

from oslo_config import cfg

GROUP = "notifications"

OPTIONS = [
    cfg.StrOpt(
        "driver",
        default="messaging",
        choices=[
            ("messaging", "kept in the outbox and published to RabbitMQ"),
            ("noop", "neither kept nor published; nothing can be billed"),
        ],
        help="Choose noop where nobody listens: a queue without a consumer grows without bound.",
    ),
    cfg.ListOpt(
        "topics",
        default=["notifications"],
        help="Each notification goes to the queue <topic>.<priority> of each of these topics. One per independent consumer.",
    ),
    cfg.IntOpt(
        "retention_hours",
        default=168,
        min=1,
        help="How long published notifications are kept for sending them again.",
    ),
]
