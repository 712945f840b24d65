# SPDX-License-Identifier: Apache-2.0
"""The options as the values that the worker and its clients use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there

# isort: split
from oslo_config import cfg

from tracker_worker.conf import register_opts, register_own_opts
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.conf.policy import read_policy, register_policy_opts
from tracker_worker.conf.reading import check_values
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import ConfigurationError
from tracker_worker.notifications.render import Style
from tracker_worker.notifications.style import read_calendar, read_style


def _conf(register: Any = register_own_opts, **overrides: Any) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register(conf)
    conf([], project="tests", default_config_files=[], default_config_dirs=[])
    for name, value in overrides.items():
        group, _, option = name.rpartition("__")
        conf.set_override(option, value, group=group or None)
    return conf


def test_the_policy_has_the_times_of_nodes_and_deletions_in_microseconds() -> None:
    conf = _conf(register_policy_opts, inventory__stale_after_seconds=7, tracker__deletion_memory_seconds=0)
    policy = read_policy(conf)
    assert (policy.stale_after, policy.deletion_memory) == (7 * SECOND, 0)


def test_nodes_and_deletions_have_ten_minutes_by_default() -> None:
    policy = read_policy(_conf(register_policy_opts))
    assert (policy.stale_after, policy.deletion_memory) == (600 * SECOND, 600 * SECOND)


def test_without_options_notifications_have_no_region_and_one_priority() -> None:
    assert read_style(_conf()) == Style(region="", warn_events=frozenset())


def test_the_region_and_the_events_that_warn_are_options() -> None:
    conf = _conf(region="north-1", notifications__warn_events=["tracker.node.drift"])
    assert read_style(conf) == Style(region="north-1", warn_events=frozenset({"tracker.node.drift"}))


@pytest.mark.parametrize("name", ["tracker.node.drifts", "instance", "node.json", ""])
def test_an_unknown_event_that_shall_warn_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[notifications\] warn_events has .* tracker\.claim\.begun"):
        read_style(_conf(notifications__warn_events=[name]))


@pytest.mark.parametrize("option", ["hour", "day@6", "month@31", "year@12", "30s"])
def test_the_periods_of_usage_are_an_option(option: str) -> None:
    assert read_calendar(_conf()) == Calendar.parse("hour")
    assert read_calendar(_conf(notifications__usage_audit_period=option)) == Calendar.parse(option)


@pytest.mark.parametrize(
    "option", ["", "week", "hour@60", "day@24", "month@0", "year@13", "7s", "0s", "day@x", "hour "]
)
def test_other_periods_are_a_mistake_when_the_options_are_read(option: str, tmp_path: Path) -> None:
    file = tmp_path / "worker.conf"
    file.write_text(f"[notifications]\nusage_audit_period = '{option}'\n", encoding="utf-8")
    conf = cfg.ConfigOpts()
    register_own_opts(conf)
    conf([f"--config-file={file}"], default_config_dirs=[])
    with pytest.raises(ValueError, match="usage_audit_period"):
        check_values(conf)
    with pytest.raises(ConfigurationError, match=r"\[notifications\] usage_audit_period"):
        read_calendar(conf)


@pytest.mark.parametrize("region", ["n" * 256, "nor\x1bth"])
def test_a_region_that_payloads_cannot_carry_is_a_mistake(region: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[DEFAULT\] region"):
        read_style(_conf(region=region))


@pytest.mark.parametrize("register", [register_opts, register_client_opts])
def test_a_client_is_not_pinned_unless_the_option_says_so(register: Any) -> None:
    assert _conf(register).upgrade_levels.tracker is None


@pytest.mark.parametrize("pin", ["2.0", "1", "1.0 ", "11.0", "newest", ""])
def test_a_pin_is_a_version(pin: str) -> None:
    with pytest.raises(ValueError, match="no version of the RPC API"):
        _conf(register_client_opts, upgrade_levels__tracker=pin)
