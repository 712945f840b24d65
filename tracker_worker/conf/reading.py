# SPDX-License-Identifier: Apache-2.0
"""Values and errors of oslo.config as sentences for the operator, without anything that may be a secret."""

from __future__ import annotations

import re
from typing import Any

from oslo_config import cfg

from tracker_worker.errors import ConfigurationError

# An option name or {, behind a $ that is not itself written as $$.
_SUBSTITUTION = re.compile(r"(?<!\$)(?:\$\$)*\$[_a-z{]", re.IGNORECASE)
_URLS = (("DEFAULT", "transport_url"), ("database", "connection"))


def without_contents(error: Exception) -> str:
    """The text of ``error`` on one line, without the line of a file that cannot be parsed: it may hold a password."""
    text = " ".join(str(error).split())
    if isinstance(error, cfg.ConfigFileParseError):
        text = re.sub(r"(:\d+, [^:]*): .*$", r"\1", text)
    return text


def check_values(conf: cfg.ConfigOpts) -> None:
    """Read every option once: oslo.config checks a value only when it is read.

    Raises ConfigurationError: a value has a ``$`` that ought to be written as ``$$``; cfg.Error and ValueError: a value is not
    what the option takes.
    """
    check_logins(conf)
    for name in list(conf):
        value = _value(conf, "DEFAULT", name)
        if isinstance(value, cfg.ConfigOpts.GroupAttr):
            for option in value:
                _value(value, name, option)


def _value(options: Any, group: str, name: str) -> Any:
    try:
        return getattr(options, name)
    except cfg.NoSuchOptError:
        # The option is there: what is missing is the one that its value names. That name may be a piece of a password.
        raise ConfigurationError(wrong_dollar(group, name)) from None


def is_set(conf: cfg.ConfigOpts, group: str, name: str) -> bool:
    """Whether anything but its default has given the option its value."""
    found = conf.get_location(name, None if group == "DEFAULT" else group)
    return found is not None and found.location is not cfg.Locations.opt_default


def check_logins(conf: cfg.ConfigOpts) -> None:
    """Raises ConfigurationError: a password in the files or the environment that ``conf`` was read from has a ``$`` that
    oslo.config would replace by the value of another option."""
    unread = _Unsubstituted()
    for group, name in _URLS:
        unread.register_opt(cfg.StrOpt(name), group=None if group == "DEFAULT" else group)
    unread(
        [],
        project=conf.project,
        default_config_files=list(conf.config_file or []),
        default_config_dirs=list(conf.config_dir or []),
    )
    for group, name in _URLS:
        value = unread[name] if group == "DEFAULT" else unread[group][name]
        login = (value or "").rpartition("@")[0].replace(r"\$", "$$")
        if _SUBSTITUTION.search(login):
            raise ConfigurationError(wrong_dollar(group, name))


def wrong_dollar(group: str, name: str) -> str:
    """The sentence about an option whose value has a ``$`` that names no other option."""
    return f"[{group}] {name} has a $, which stands for the value of another option: write $$ for $"


class _Unsubstituted(cfg.ConfigOpts):
    """Options as they are written."""

    def _substitute(self, value: Any, group: Any = None, namespace: Any = None) -> Any:
        return value
