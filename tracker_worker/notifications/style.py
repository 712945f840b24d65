# SPDX-License-Identifier: Apache-2.0
"""Options -> the style of notifications, and the periods that they are for."""

from __future__ import annotations

from oslo_config import cfg

from tracker_worker.domain.calendar import Calendar
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


def read_calendar(conf: cfg.ConfigOpts) -> Calendar:
    """The periods that the options say. Raises ConfigurationError."""
    try:
        return Calendar.parse(conf.notifications.usage_audit_period)
    except ValueError as error:
        raise ConfigurationError(f"[notifications] usage_audit_period: {error}") from error
