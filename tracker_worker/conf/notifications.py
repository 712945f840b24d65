# SPDX-License-Identifier: Apache-2.0
"""[notifications]: the notifications for billing."""

from oslo_config import cfg

GROUP = "notifications"

OPTIONS = [
    cfg.StrOpt(
        "driver",
        default="messaging",
        choices=[
            ("messaging", "notifications are kept in the outbox and published to RabbitMQ"),
            ("noop", "notifications are neither kept nor published; nothing can be billed"),
        ],
        help="What the worker does with notifications. Choose noop if no consumer exists, because a queue without a consumer "
        "grows without bound.",
    ),
    cfg.ListOpt(
        "topics",
        default=["notifications"],
        help="The worker publishes each notification to the queue <topic>.<priority> of every topic in this list. Give each "
        "independent consumer a topic of its own.",
    ),
    cfg.ListOpt(
        "warn_events",
        default=[],
        help="The event types whose notifications go to the queue <topic>.warn instead of <topic>.info, such as "
        "tracker.node.drift. Name some only if a consumer raises alarms from that queue: a consumer that hears one of the two "
        "queues sees gaps in the sequence numbers.",
    ),
    cfg.IntOpt(
        "retention_hours",
        default=168,
        min=1,
        help="Hours for which published notifications stay in the outbox, so that `outbox replay` can publish them again. Each "
        "notification costs a row for that time.",
    ),
]
