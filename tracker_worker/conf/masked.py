# SPDX-License-Identifier: Apache-2.0
"""The options with their values, without any that is secret."""

from __future__ import annotations

import re
from collections.abc import Iterator

from oslo_config import cfg

_MASK = "***"
_URLS = (("transport_url", None), ("connection", "database"))
# Of any other option: a login in a URL, up to the last @ of the word.
_LOGIN = re.compile(r"://\S*@")
_OPTION = re.compile(r"(?P<name>[\w.-]+) *= (?P<value>.*)", re.DOTALL)


def masked_options(conf: cfg.ConfigOpts) -> Iterator[str]:
    """One line for each registered option, ``group.name = value`` without the group for [DEFAULT]. Options that are declared
    secret have no value; of the URLs of broker and database, everything is there but the logins and the query."""
    lines: list[str] = []
    conf.log_opt_values(_Lines(lines), 0)
    urls = {
        (name if group is None else f"{group}.{name}"): conf[name] if group is None else conf[group][name]
        for name, group in _URLS
        if name in (conf if group is None else conf[group])
    }
    for line in lines:
        option = _OPTION.fullmatch(line)
        if option is None:
            continue  # a rule, or a heading
        name, value = option["name"], option["value"]
        if name in urls:
            yield f"{name} = {None if urls[name] is None else masked_url(str(urls[name]))}"
        else:
            yield f"{name} = {_LOGIN.sub(f'://{_MASK}@', value)}"


def masked_url(url: str) -> str:
    """A URL of a broker or a database, with ``***`` instead of user and password, and of the query, which may hold another
    password. Of several brokers, each has its address."""
    scheme, sign, rest = url.partition("://")
    if not sign:
        return _MASK
    location, question, _ = rest.partition("?")
    query = f"?{_MASK}" if question else ""
    netloc, slash, path = location.partition("/")
    if not netloc or "@" not in rest:
        return f"{scheme}://{location}{query}"  # a file, or a broker without a login
    if rest.rindex("@") > len(netloc):
        return (
            f"{scheme}://{_MASK}"  # a / or ? that should have been escaped: what follows it is a piece of the password
        )
    # Without an @, a piece between commas may be one of a password.
    addresses = [f"{_MASK}@{piece.rpartition('@')[2]}" if "@" in piece else _MASK for piece in netloc.split(",")]
    return f"{scheme}://{','.join(addresses)}{slash}{path}{query}"


class _Lines:
    """What ``log_opt_values`` takes for a logger."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def log(self, level: int, msg: object, *args: object) -> None:
        self._lines.append(str(msg) % args)
