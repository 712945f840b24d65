# SPDX-License-Identifier: Apache-2.0
"""The registration of every option on the ConfigOpts object that the caller passes."""

from __future__ import annotations

import importlib
from typing import Any

from oslo_config import cfg

from tracker_worker.conf import (
    bus,
    database,
    default,
    health,
    inventory,
    notifications,
    oslo_policy,
    tracker,
    upgrade_levels,
)

_GROUPS = (default, tracker, inventory, bus, database, notifications, health, oslo_policy, upgrade_levels)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """The groups and options of this package, for oslo-config-generator."""
    return [(module.GROUP, list(module.OPTIONS)) for module in _GROUPS]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options of this package, and the options of oslo.messaging that say how to reach the broker."""
    register_own_opts(conf)
    register_messaging_opts(conf)


def register_own_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options of this package only."""
    for group, options in list_opts():
        conf.register_opts(options, group=None if group == default.GROUP else group)


def register_client_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options that a client for schedulers reads: those of oslo.messaging, ``[tracker] topic`` and
    ``[upgrade_levels] tracker``."""
    register_messaging_opts(conf)
    conf.register_opts([option for option in tracker.OPTIONS if option.name == "topic"], group=tracker.GROUP)
    conf.register_opts(upgrade_levels.OPTIONS, group=upgrade_levels.GROUP)


def register_messaging_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options that oslo.messaging reads from ``conf``.

    oslo.messaging 18.3 registers its tracing and metrics options only on ``cfg.CONF``, but reads them at every call from
    the object that its transport was given; its list_opts() does not name them.
    """
    # Imported here, because the import is slow and callers of list_opts() do not need it.
    from tracker_worker.oslo import opts as messaging_opts

    for group, options in messaging_opts.list_opts():
        if group in (None, "oslo_messaging_rabbit", "oslo_messaging_notifications"):
            conf.register_opts(options, group=group)
    for module, name in (("_tracing", "oslo_messaging_tracing"), ("_metrics", "oslo_messaging_metrics")):
        client: Any = importlib.import_module(f"oslo_messaging.{module}.client")
        conf.register_opts(getattr(client, name), group=name)
