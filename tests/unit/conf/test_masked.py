# SPDX-License-Identifier: Apache-2.0
"""The options as a report shows them: every one of them, and no secret."""

from __future__ import annotations

import pytest

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there

# isort: split
from oslo_config import cfg

from tracker_worker.conf import register_opts
from tracker_worker.conf.masked import masked_options, masked_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rabbit://tracker:s3cret@h1:5672/v", "rabbit://***@h1:5672/v"),
        ("rabbit://u:s3cret@h1:5672,u2:s3cret@h2:5673//", "rabbit://***@h1:5672,***@h2:5673//"),
        ("rabbit://h1:5672/", "rabbit://h1:5672/"),
        ("rabbit://u:s3cret@h1/?ssl_key_password=s3cret", "rabbit://***@h1/?***"),
        ("rabbit://u:s3@cret@h1/", "rabbit://***@h1/"),
        ("rabbit://u:s3,cret@h1/", "rabbit://***,***@h1/"),
        ("rabbit://u:s3/cret@h1/", "rabbit://***"),
        ("postgresql+psycopg://u:s3?cret@h1/d", "postgresql+psycopg://***"),
        ("postgresql+psycopg://u:s3cret@h1/d?password=s3cret", "postgresql+psycopg://***@h1/d?***"),
        ("sqlite:////var/lib/tracker@home/t.sqlite", "sqlite:////var/lib/tracker@home/t.sqlite"),
        ("s3cret", "***"),
    ],
)
def test_a_url_is_shown_without_logins_and_query(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.fixture
def conf(tmp_path) -> cfg.ConfigOpts:
    path = tmp_path / "worker.conf"
    path.write_text(
        "[DEFAULT]\ntransport_url = rabbit://tracker:s3cret@h1:5672,tracker:s3cret@h2:5672//v\n"
        "[database]\nconnection = postgresql+psycopg://tracker:s3cret@db/ledger\n"
        "[tracker]\nhosts = h1, h2\n[extra]\ntoken = s3cret\nproxy = http://u:s3cret@proxy:3128/\n"
    )
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf.register_opts([cfg.StrOpt("token", secret=True), cfg.StrOpt("proxy"), cfg.StrOpt("unset")], group="extra")
    conf([f"--config-file={path}"], project="tracker-worker")
    return conf


def test_every_option_is_shown_and_no_secret(conf: cfg.ConfigOpts) -> None:
    lines = list(masked_options(conf))
    assert "s3cret" not in "\n".join(lines)
    assert "transport_url = rabbit://***@h1:5672,***@h2:5672//v" in lines
    assert "database.connection = postgresql+psycopg://***@db/ledger" in lines
    assert "tracker.hosts = ['h1', 'h2']" in lines
    assert "extra.token = ****" in lines
    assert "extra.proxy = http://***@proxy:3128/" in lines
    assert "extra.unset = None" in lines
    names = [line.partition(" = ")[0] for line in lines]
    assert {f"tracker.{name}" for name in conf.tracker} <= set(names)
    assert {f"bus.{name}" for name in conf.bus} <= set(names)


def test_an_unset_database_is_shown(conf: cfg.ConfigOpts) -> None:
    conf.set_override("connection", None, group="database")
    assert "database.connection = None" in list(masked_options(conf))
