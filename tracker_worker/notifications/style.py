# SPDX-License-Identifier: Apache-2.0
"""Options -> the style of notifications."""

from __future__ import annotations

from oslo_config import cfg

from tracker_worker.errors import ConfigurationError
from tracker_worker.notifications.render import Style
from tracker_worker.notifications.schema import event_types

_MOST_REGION_CHARACTERS = 255


def read_style(conf: cfg.ConfigOpts) -> Style:
    """The style that the options say. Raises ConfigurationError: an event type is unknown, or the region is no short text."""
    known = event_types()
    for name in conf.notifications.warn_events:
        if name not in known:
            raise ConfigurationError(
                f"[notifications] warn_events has {name!r}, which is no event type: {', '.join(sorted(known))}"
            )
    region = conf.region
    if len(region) > _MOST_REGION_CHARACTERS or not region.isprintable():
        raise ConfigurationError(
            f"[DEFAULT] region must be printable and have at most {_MOST_REGION_CHARACTERS} characters"
        )
    return Style(region=region, warn_events=frozenset(conf.notifications.warn_events))
