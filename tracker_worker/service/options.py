# SPDX-License-Identifier: Apache-2.0
"""Options of which only the worker makes something."""

from __future__ import annotations

from oslo_config import cfg

from tracker_worker.conf.names import check_names, topic_options
from tracker_worker.errors import ConfigurationError
from tracker_worker.wire.reply_queues import ReplyQueues


def read_hosts(conf: cfg.ConfigOpts) -> list[str]:
    """The hosts that the worker serves. Raises ConfigurationError."""
    check_names(conf)
    hosts = list(dict.fromkeys(conf.tracker.hosts))
    if len(hosts) > 1 and conf.tracker.inventory_driver == "host":
        raise ConfigurationError(
            "[tracker] inventory_driver host reports this one machine; with several hosts choose another driver"
        )
    return hosts


def read_reply_queues(conf: cfg.ConfigOpts) -> ReplyQueues:
    """Where answers may go. Raises ConfigurationError."""
    if not conf.bus.reply_queue_prefixes:
        raise ConfigurationError("[bus] reply_queue_prefixes is empty: no call could be answered")
    return ReplyQueues.of_clients(
        conf.bus.reply_queue_prefixes,
        topic=conf.tracker.topic,
        dead_letter_queue=conf.bus.dead_letter_queue,
        notification_topics=topic_options(conf),
    )
