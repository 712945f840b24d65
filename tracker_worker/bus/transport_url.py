# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a transport URL, in one sentence that repeats nothing which may be part of a password.

A URL with an unescaped character in a password is read as another URL, whose host, port or path is a piece of the password.
What is quoted here is quoted only where that cannot be.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import SplitResult, unquote, urlsplit

from tracker_worker.errors import ConfigurationError

_OPTION = "[DEFAULT] transport_url"
_DRIVERS = ("rabbit", "amqp")
# Drivers of oslo.messaging that an operator may have in mind: other schemes are not quoted.
_OTHER_DRIVERS = ("fake", "kafka", "kombu+memory", "zmq")
_ESCAPES = "in user and password write %23 for #, %2F for /, %3F for ?, %40 for @, %5B and %5D for [ and ]"
_UNESCAPED = f"{_OPTION} cannot be read: {_ESCAPES}"
_MOST_LABEL, _MOST_NAME, _MOST_SHORT = 63, 253, 255
_NOT_IN_A_NAME = re.compile(r"[\x00-\x20\x7f\"'<>\\^`{|}]")


def check_transport_url(text: str) -> None:
    """Raises ConfigurationError: the URL is not one of RabbitMQ's, names no broker, or names one that can never be reached."""
    try:
        url = urlsplit(text)
    except ValueError:
        raise ConfigurationError(_UNESCAPED) from None
    _check_scheme(url.scheme)
    _check_escapes(text, url)
    hosts = [host for host in url.netloc.split(",") if host]
    logins = ["@" in host for host in hosts]
    if any(logins) and not all(logins):
        raise ConfigurationError(
            f"{_OPTION} has brokers with user and password and others without; if a password has a comma, write %2C for it"
        )
    for host in hosts:
        _check_broker(host.rpartition("@")[2])
    if not hosts:
        raise ConfigurationError(f"{_OPTION} names no broker: rabbit://user:password@host:port/vhost")
    if len(unquote(url.path[1:]).encode()) > _MOST_SHORT:
        raise ConfigurationError(f"{_OPTION} has a virtual host of more than {_MOST_SHORT} bytes")


def _check_scheme(scheme: str) -> None:
    if scheme.removeprefix("kombu+") in _DRIVERS:
        return
    named = f"is for {scheme}" if scheme in _OTHER_DRIVERS else "does not begin with a driver that is served"
    raise ConfigurationError(f"{_OPTION} {named}; rabbit:// is supported")


def _check_escapes(text: str, url: SplitResult) -> None:
    """Refuse a URL that ends before its account does."""
    behind = url.path + url.query
    account = url.netloc.rpartition("@")[0]
    if "#" in text or "@" in behind or "[" in account or "]" in account:
        raise ConfigurationError(_UNESCAPED)


def _check_broker(place: str) -> None:
    """``place`` is a host, or host:port; an IPv6 address with a port is in brackets."""
    check: Callable[[str], None]
    if place.startswith("["):
        name, closing, rest = place[1:].partition("]")
        if not closing or (rest and not rest.startswith(":")):
            raise ConfigurationError(_UNESCAPED)
        check, port = _check_address, rest[1:] if rest else None
    elif place.count(":") > 1:
        name, check, port = place, _check_address, None
    else:
        name, colon, rest = place.partition(":")
        check, port = _check_name, rest if colon else None
    _check_port(port, name)
    check(name)


def _check_port(port: str | None, name: str) -> None:
    if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        # Without an @ behind it, what stands for the port is a password: it is not quoted.
        raise ConfigurationError(f"{_OPTION}: the port of broker {_quoted(name)} is no number from 1 to 65535")


def _check_address(address: str) -> None:
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        raise ConfigurationError(f"{_OPTION}: broker {_quoted(address)} is not an IPv6 address") from None


def _check_name(name: str) -> None:
    """Refuse what can never be the name of a host (RFC 1035, section 2.3.4)."""
    if not name:
        raise ConfigurationError(f"{_OPTION} names no broker: rabbit://user:password@host:port/vhost")
    if _NOT_IN_A_NAME.search(name):
        raise ConfigurationError(f"{_OPTION}: broker {_quoted(name)} has a character that no host name has")
    labels = name.removesuffix(".").split(".")
    problem = None
    if not all(labels):
        problem = "has an empty part between two dots"
    elif any(len(_encoded(label)) > _MOST_LABEL for label in labels):
        problem = f"has a part of more than {_MOST_LABEL} characters"
    elif sum(len(_encoded(label)) + 1 for label in labels) - 1 > _MOST_NAME:
        problem = f"has more than {_MOST_NAME} characters"
    if problem:
        raise ConfigurationError(f"{_OPTION}: the name of broker {_quoted(name)} {problem}")


def _encoded(label: str) -> bytes:
    """The label as it goes into DNS. One that cannot be encoded counts as too long."""
    if label.isascii():
        return label.encode()
    try:
        return label.encode("idna")
    except UnicodeError:
        return bytes(_MOST_LABEL + 1)


def _quoted(name: str) -> str:
    return ascii(name)[1:-1]
