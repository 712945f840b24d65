# SPDX-License-Identifier: Apache-2.0
"""``[health] listen`` as an address."""

from __future__ import annotations

import pytest
from oslo_config import cfg

from tracker_worker.conf import register_own_opts
from tracker_worker.conf.health import read_listen
from tracker_worker.errors import ConfigurationError


def conf(listen: str | None = None) -> cfg.ConfigOpts:
    made = cfg.ConfigOpts()
    register_own_opts(made)
    made([], project="tests", default_config_files=[], default_config_dirs=[])
    if listen is not None:
        made.set_override("listen", listen, group="health")
    return made


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, ("127.0.0.1", 9710)),
        ("", None),
        ("  ", None),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:9710", ("::1", 9710)),
        ("[::]:80", ("::", 80)),
    ],
)
def test_an_address_is_host_and_port(text: str | None, address: tuple[str, int] | None) -> None:
    assert read_listen(conf(text)) == address


@pytest.mark.parametrize(
    "text",
    ["9710", "127.0.0.1", ":9710", "127.0.0.1:", "::1:9710", "h:-1", "h:65536", "h:9٣", "h:http", "[::1]", "[]:1"],
)
def test_what_is_no_address_is_named_with_its_option(text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_listen(conf(text))
    assert str(error.value).startswith(f"[health] listen {text} is no address: ")
    assert len(str(error.value).splitlines()) == 1
