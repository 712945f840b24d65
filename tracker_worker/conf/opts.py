# SPDX-License-Identifier: Apache-2.0
"""Every option, registered on the object that the caller passes."""

from __future__ import annotations

import importlib
from typing import Any

from oslo_config import cfg

from tracker_worker.conf import bus, database, inventory, notifications, tracker

_GROUPS = (tracker, inventory, bus, database, notifications)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Group and options of our own, for oslo-config-generator."""
    return [(module.GROUP, list(module.OPTIONS)) for module in _GROUPS]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Our options, and those of oslo.messaging that say how to reach the broker."""
    for group, options in list_opts():
        conf.register_opts(options, group=group)
    register_messaging_opts(conf)


def register_messaging_opts(conf: cfg.ConfigOpts) -> None:
    """What oslo.messaging reads from ``conf``.

    oslo.messaging 18.3 registers its tracing and metrics options on ``cfg.CONF`` alone, and reads them with every
    call from the object that its transport was given; its list_opts() does not name them.
    """
    import oslo_messaging.opts  # here: importing it takes a while, and a reader of list_opts() need not

    for group, options in oslo_messaging.opts.list_opts():
        if group in (None, "oslo_messaging_rabbit", "oslo_messaging_notifications"):
            conf.register_opts(options, group=group)
    for module, name in (("_tracing", "oslo_messaging_tracing"), ("_metrics", "oslo_messaging_metrics")):
        client: Any = importlib.import_module(f"oslo_messaging.{module}.client")
        conf.register_opts(getattr(client, name), group=name)
