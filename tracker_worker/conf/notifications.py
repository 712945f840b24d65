# SPDX-License-Identifier: Apache-2.0
"""[notifications]: the notifications for billing."""

from typing import Any

from oslo_config import cfg, types

from tracker_worker.domain.calendar import Calendar

GROUP = "notifications"

TOPICS = ("topics", "compute_topics", "cloudevents_topics")
"""The options that name topics, one for each dialect."""


class _Periods(types.String):
    """What ``Calendar.parse`` takes."""

    def __call__(self, value: Any) -> Any:
        Calendar.parse(str(value))
        return super().__call__(value)


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
        "compute_topics",
        default=[],
        help="The topics on which the worker publishes the notifications of instances as Nova's compute.instance.* "
        "(create.end, update, delete.start, delete.end, exists and those of a resize), for consumers that know only these, "
        "such as Ceilometer with the definitions that it is packaged with. They go to the queue <topic>.info. Each topic costs "
        "the broker up to two more messages for each event. No topic may be in two of the lists.",
    ),
    cfg.ListOpt(
        "cloudevents_topics",
        default=[],
        help="The topics on which the worker publishes each notification as a CloudEvent 1.0 (structured mode, JSON), for "
        "consumers that read CloudEvents and no oslo.messaging. They go to the queue <topic>.info with the content type "
        "application/cloudevents+json. Each topic costs the broker one more message for each event. No topic may be in two of "
        "the lists.",
    ),
    cfg.ListOpt(
        "warn_events",
        default=[],
        help="The event types whose notifications go to the queue <topic>.warn instead of <topic>.info, such as "
        "tracker.node.drift. Name some only if a consumer raises alarms from that queue: a consumer that hears one of the two "
        "queues sees gaps in the sequence numbers.",
    ),
    cfg.Opt(
        "usage_audit_period",
        type=_Periods(),
        default="hour",
        help="The periods for which the usage of each instance is told, in tracker.usage.exists: hour, day, month or year, in "
        "UTC. An offset may follow, such as day@6, in minutes of the hour (0 to 59), hours of the day (0 to 23), days of the "
        "month (1 to 31; a day that a month lacks is its last one) or months of the year (1 to 12). For tests also <N>s: N "
        "seconds, which divide a day. A period always begins where the one before has ended: after a change, one period has "
        "another length. Each charged instance costs a notification for each period: choose day or month if the invoice needs "
        "no hours.",
    ),
    cfg.IntOpt(
        "retention_hours",
        default=168,
        min=1,
        help="Hours for which published notifications stay in the outbox, so that `outbox replay` can publish them again. Each "
        "notification costs a row for that time.",
    ),
]
