# SPDX-License-Identifier: Apache-2.0
"""Where the worker's answers may go, as the configuration says."""

from __future__ import annotations

from oslo_config import cfg

from tracker_worker.conf.names import topic_options
from tracker_worker.errors import ConfigurationError
from tracker_worker.wire.reply_queues import ReplyQueues


def read_reply_queues(conf: cfg.ConfigOpts) -> ReplyQueues:
    """Raises ConfigurationError: no call could be answered."""
    if not conf.bus.reply_queue_prefixes:
        raise ConfigurationError("[bus] reply_queue_prefixes is empty: no call could be answered")
    return ReplyQueues.of_clients(
        conf.bus.reply_queue_prefixes,
        topic=conf.tracker.topic,
        dead_letter_queue=conf.bus.dead_letter_queue,
        notification_topics=topic_options(conf),
    )
