# SPDX-License-Identifier: Apache-2.0
"""Every dialect, and which topics are published in which one."""

from __future__ import annotations

from collections.abc import Mapping

from oslo_config import cfg

from tracker_worker.conf.names import topic_options
from tracker_worker.notifications.dialects import cloudevents, compute
from tracker_worker.notifications.dialects.dialect import Dialect
from tracker_worker.notifications.notification import PRIORITIES

PLAIN = Dialect(
    option="topics",
    write=lambda notification: (notification.encode(),),
    queues={priority: priority for priority in PRIORITIES},
)
"""The tracker's own notifications, as oslo.messaging writes them."""
COMPUTE = Dialect(option="compute_topics", write=compute.write)
CLOUDEVENTS = Dialect(option="cloudevents_topics", write=cloudevents.write, content_type=cloudevents.CONTENT_TYPE)

DIALECTS: Mapping[str, Dialect] = {dialect.option: dialect for dialect in (PLAIN, COMPUTE, CLOUDEVENTS)}
"""By option of [notifications]."""


def read_topics(conf: cfg.ConfigOpts) -> Mapping[str, Dialect]:
    """Each topic on which notifications are published, and its dialect; none with the driver noop.

    Raises ConfigurationError: a topic is named twice."""
    topics = topic_options(conf)
    if conf.notifications.driver != "messaging":
        return {}
    return {name: DIALECTS[option] for name, option in topics.items()}
