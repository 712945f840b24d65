# SPDX-License-Identifier: Apache-2.0
"""A wrong transport URL is refused with one sentence that repeats no piece of a password."""

from __future__ import annotations

import pytest
from oslo_config import cfg

from tests.support.messaging import oslo_messaging  # noqa: F401 before the settings
from tracker_worker.bus.settings import read_connection
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.errors import ConfigurationError


def read(url: str) -> tuple[str, ...]:
    conf = cfg.ConfigOpts()
    register_client_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("transport_url", url)
    return read_connection(conf).urls


def refusal(url: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        read(url)
    text = str(refused.value)
    assert "transport_url" in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "account",
    [
        *(f"guest:hidden{sign}secret" for sign in "#/?["),
        *(f"guest:12{sign}secret" for sign in "#/?["),
        *(f"guest:secret{sign}12" for sign in "#/?["),
        *(f"guest:se{sign}cr@hidden{sign}et" for sign in "#/?["),
        "guest:secret#",
        "guest:/secret",
        "guest:?secret=hidden",
        "guest:12/secret@hidden?x",
        "guest:[secret]hidden",
        "guest:sec]hidden",
        "se/cret:hidden",
        "guest:12,secret",
        "guest:hidden,secret",
        "guest:12,secret:x",
    ],
)
def test_no_piece_of_a_password_with_an_unescaped_character_is_repeated(account: str) -> None:
    text = refusal(f"rabbit://{account}@broker.example:5672/vhost")
    for piece in ("secret", "hidden", "cr", "12"):
        assert piece not in text.replace("cannot be read: in user and password write", "")


@pytest.mark.parametrize(
    "url",
    [
        "secret@broker/",
        "secret",
        "guest:secret",
        "rabbit://guest:secret",
        "rabbit://guest:12secret",
        "guest:secret@broker:5672/",
    ],
)
def test_no_piece_of_a_url_without_its_parts_is_repeated(url: str) -> None:
    assert "secret" not in refusal(url)


@pytest.mark.parametrize("query", ["secret=1", "x=secret", "heartbeat_timeout_threshold=secret", "ssl=secret"])
def test_nothing_unknown_of_the_query_is_repeated(query: str) -> None:
    assert "secret" not in refusal(f"rabbit://guest:guest@broker/?{query}")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("rabbit..example:5672", "rabbit..example"),
        (".example", ".example"),
        ("a" * 64 + ".example", "63"),
        ("ü" * 70 + ".example", "63"),
        (".".join(["a" * 60] * 5), "253"),
        ("a host", "a host"),
        ("a{host", "a{host"),
        ("broker:0", "65535"),
        ("broker:65536", "65535"),
        ("broker:-1", "65535"),
        ("broker:", "65535"),
        ("broker:5672x", "65535"),
        ("[::1]:0", "65535"),
        ("::x", "IPv6"),
        ("", "no broker"),
        (":5672", "no broker"),
    ],
)
def test_a_broker_that_can_never_be_reached_is_named(place: str, said: str) -> None:
    assert said in refusal(f"rabbit://guest:secret@{place}/")
    assert "secret" not in refusal(f"rabbit://guest:secret@ok.example,guest:secret@{place}/")


def test_a_virtual_host_that_is_too_long_is_refused() -> None:
    assert "virtual host" in refusal("rabbit://guest:guest@broker/" + "v" * 256)


@pytest.mark.parametrize(
    ("url", "brokers"),
    [
        ("rabbit://u:p@broker", ["u:p@broker:5672/%2F"]),
        ("rabbit://u:p@broker:1/v", ["u:p@broker:1/v"]),
        ("rabbit://u:p%23%2F%3F%5B%40%2C@a.b.:2//", ["u:p%23%2F%3F%5B%40%2C@a.b.:2/%2F"]),
        ("rabbit://u:p@a,u:q@b/v", ["u:p@a:5672/v", "u:q@b:5672/v"]),
        ("rabbit://broker/", ["guest:guest@broker:5672/%2F"]),
        ("rabbit://u:p@[::1]:3/v?ssl=false", ["u:p@[::1]:3/v"]),
        ("amqp://u:p@192.0.2.1:5672/a%2Fb", ["u:p@192.0.2.1:5672/a%2Fb"]),
        ("kombu+rabbit://u:p@bücher.example/v", ["u:p@bücher.example:5672/v"]),
    ],
)
def test_a_usable_url_is_used(url: str, brokers: list[str]) -> None:
    assert [found.partition("://")[2] for found in read(url)] == brokers
