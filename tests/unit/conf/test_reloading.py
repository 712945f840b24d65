# SPDX-License-Identifier: Apache-2.0
"""A reload says what has changed, and what needs a restart."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from oslo_config import cfg

from tracker_worker.conf import register_opts
from tracker_worker.conf.reloading import reload


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "worker.conf"
    path.write_text("[tracker]\nhosts = h1\nclaim_timeout_seconds = 600\n")
    return path


@pytest.fixture
def conf(path: Path) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([f"--config-file={path}"], default_config_dirs=[])
    return conf


def test_a_changed_option_is_said_with_both_values(
    conf: cfg.ConfigOpts, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text("[tracker]\nhosts = h1\nclaim_timeout_seconds = 777\n")
    with caplog.at_level(logging.INFO):
        reload(conf)
    assert caplog.messages == ["[tracker] claim_timeout_seconds: 600 -> 777"]
    assert conf.tracker.claim_timeout_seconds == 777


def test_an_option_that_needs_a_restart_is_named_without_its_value(
    conf: cfg.ConfigOpts, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(
        "[tracker]\nhosts = h2\nclaim_timeout_seconds = 600\n[database]\nconnection = postgresql+psycopg://u:secret@h/d\n"
    )
    with caplog.at_level(logging.INFO):
        reload(conf)
    (line,) = caplog.messages
    assert line.startswith("changed, and needs a restart: ")
    assert "[tracker] hosts" in line
    assert "[database] connection" in line
    assert "secret" not in caplog.text


def test_nothing_changed_says_nothing(conf: cfg.ConfigOpts, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        reload(conf)
    assert caplog.messages == []
