# SPDX-License-Identifier: Apache-2.0
"""The transport URL is read again at HUP: user and password are taken over, everything else needs a restart."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from oslo_config import cfg

import tests.support.messaging  # noqa: F401 before oslo.messaging
from tracker_worker.bus.amqp.bus import AMQPBus
from tracker_worker.bus.settings import read_settings, with_logins_of
from tracker_worker.conf import register_opts
from tracker_worker.conf.reading import check_values
from tracker_worker.errors import ConfigurationError

OLD = "rabbit://u:first@a:1,u:first@b:2/v"


class File:
    """A configuration file, the options that were read from it, and a bus on them that is not started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(OLD)
        self.conf = cfg.ConfigOpts()
        register_opts(self.conf)
        self.conf([f"--config-file={path}"], project="tracker-worker")
        self.bus = AMQPBus(read_settings(self.conf))

    def write(self, url: str, more: str = "") -> None:
        self.path.write_text(f"[DEFAULT]\ntransport_url = {url}\n{more}", encoding="utf-8")

    def reloaded(self, url: str, more: str = "") -> list[str]:
        """The accounts and brokers after a reload with another URL."""
        self.write(url, more)
        self.bus.reload(self.conf)
        return [found.removeprefix("amqp://") for found in self.bus._addresses.urls()]


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "worker.conf")


def test_user_and_password_are_taken_over(file: File, caplog: pytest.LogCaptureFixture) -> None:
    assert file.reloaded("rabbit://w:se$$cond@a:1,x:third@b:2/v") == ["w:se%24cond@a:1/v", "x:third@b:2/v"]
    assert caplog.messages == []


def test_the_environment_is_read_again_too(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_DEFAULT__TRANSPORT_URL", "rabbit://u:second@a:1,u:second@b:2/v")
    assert file.reloaded(OLD) == ["u:second@a:1/v", "u:second@b:2/v"]


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("rabbit://u:second@a:1,u:second@c:3/v", ""),
        ("rabbit://u:second@a:1/v", ""),
        ("rabbit://u:second@a:1,u:second@b:2/v?heartbeat_timeout_threshold=5", ""),
        ("rabbit://u:second@a:1,u:second@b:2/v", "[oslo_messaging_rabbit]\nheartbeat_timeout_threshold = 5\n"),
    ],
)
def test_everything_else_needs_a_restart_and_one_warning_says_so(
    file: File, url: str, more: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert file.reloaded(url, more)[0] == "u:second@a:1/v"
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "needs a restart" in warning.getMessage()


@pytest.mark.parametrize("url", ["rabbit://u:sec#ret@a/", "rabbit://u:sec$ret@a/", "kafka://sec:ret@a/", "sec:ret"])
def test_what_cannot_be_used_changes_nothing(file: File, url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert file.reloaded(url) == ["u:first@a:1/v", "u:first@b:2/v"]
    (error,) = caplog.records
    assert error.levelno == logging.ERROR
    assert "transport_url" in error.getMessage()
    assert "sec" not in error.getMessage()
    assert "ret" not in error.getMessage().replace("[", "")


def test_a_broker_that_is_not_named_any_more_keeps_its_account() -> None:
    assert with_logins_of(["amqp://u:q@b:2/v"], ["amqp://u:p@a:1/v", "amqp://u:p@b:2/v"]) == [
        "amqp://u:p@a:1/v",
        "amqp://u:q@b:2/v",
    ]


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("rabbit://u:pa$x@a/", True),
        ("rabbit://u:pa$control_exchange@a/", True),
        ("rabbit://u:pa${control_exchange}@a/", True),
        ("rabbit://u:pa$$$x@a/", True),
        ("rabbit://u:pa$$x@a/", False),
        (r"rabbit://u:pa\$x@a/", False),
        ("rabbit://u:pa$5@a/", False),
        ("rabbit://u:p@a/$control_exchange", False),
    ],
)
def test_a_dollar_in_a_password_has_to_be_written_twice(file: File, url: str, refused: bool) -> None:
    file.write(url)
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([f"--config-file={file.path}"], project="tracker-worker")
    if not refused:
        check_values(conf)
        return
    with pytest.raises(ConfigurationError) as error:
        check_values(conf)
    assert "transport_url" in str(error.value)
    assert "write $$ for $" in str(error.value)


@pytest.mark.parametrize(
    ("option", "names"),
    [("control_exchange", "x" * 256), ("topic", "t" * 220), ("hosts", "h" * 250), ("dead_letter_queue", "ü" * 130)],
)
def test_a_name_that_amqp_cannot_carry_is_refused(file: File, option: str, names: str) -> None:
    group = {"control_exchange": None, "dead_letter_queue": "bus"}.get(option, "tracker")
    file.conf.set_override(option, [names] if option == "hosts" else names, group=group)
    with pytest.raises(ConfigurationError, match=option):
        read_settings(file.conf)


def test_settings_differ_in_more_than_their_urls(file: File) -> None:
    settings = read_settings(file.conf)
    assert settings.agrees_with(replace(settings, urls=()))
    assert not settings.agrees_with(replace(settings, heartbeat_seconds=1))
