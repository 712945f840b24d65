# SPDX-License-Identifier: Apache-2.0
"""Reading the configuration files again, and what has changed in them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from oslo_config import cfg

LOG = logging.getLogger(__name__)

# oslo.config logs each change under this name: which options changed that it does not take, nobody else says.
_OSLO = logging.getLogger("oslo_config.cfg")
# The bus reads user and password again, and says what of the rest needs a restart.
_READ_ELSEWHERE = ("[DEFAULT] transport_url",)
_IMMUTABLE = "Ignoring change to immutable option"


def reload(conf: cfg.ConfigOpts) -> None:
    """Take the new values of mutable options, and log what has changed: with its values, or, of options that need a restart,
    without. Raises cfg.Error, OSError and ValueError: then the old values hold."""
    with _immutable_changes() as ignored:
        changed = conf.mutate_config_files()
    for (group, name), (old, new) in sorted(changed.items(), key=str):
        LOG.info(
            "[%s] %s: %s -> %s",
            group or "DEFAULT",
            name,
            _shown(conf, group, name, old),
            _shown(conf, group, name, new),
        )
    if restart := [name for name in ignored if name not in _READ_ELSEWHERE]:
        LOG.warning("changed, and needs a restart: %s", ", ".join(restart))


@contextmanager
def _immutable_changes() -> Iterator[list[str]]:
    """What oslo.config says instead of taking it, in a list, and not in the log."""
    found: list[str] = []

    def hear(record: logging.LogRecord) -> bool:
        if isinstance(record.args, Mapping) and "option" in record.args:
            if str(record.msg).startswith(_IMMUTABLE):
                found.append(f"[{record.args['group']}] {record.args['option']}")
            return False
        return True

    _OSLO.addFilter(hear)
    try:
        yield found
    finally:
        _OSLO.removeFilter(hear)


def _shown(conf: cfg.ConfigOpts, group: str | None, name: str, value: Any) -> Any:
    options = conf if group is None else conf._get_group(group)
    option = options._opts[name]["opt"]
    return "***" if option.secret else value
