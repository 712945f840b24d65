# SPDX-License-Identifier: Apache-2.0
"""[upgrade_levels]: the RPC versions that clients may send."""

from __future__ import annotations

import re
from typing import Any

from oslo_config import cfg, types

from tracker_worker.errors import ConfigurationError

GROUP = "upgrade_levels"

_VERSION = re.compile(r"1\.[0-9]{1,4}")


class _Version(types.String):
    """A version of the RPC API."""

    def __call__(self, value: Any) -> Any:
        if not _VERSION.fullmatch(str(value)):
            raise ValueError(f"{value!r} is no version of the RPC API such as 1.0")
        return super().__call__(value)


OPTIONS = [
    cfg.Opt(
        "tracker",
        type=_Version(),
        sample_default="<the newest version>",
        help="The newest version of the RPC API that clients send, the commands of this program among them; workers do not "
        "read it. Set it, on the schedulers, to the version of the oldest worker while workers are being upgraded: a client "
        "then refuses by itself what came later. Without it such a request fails at the worker that is too old.",
    ),
]


def read_version_cap(conf: cfg.ConfigOpts) -> str | None:
    """The newest version that a client may send; None: any. Raises ConfigurationError: the option is no version."""
    try:
        cap: str | None = conf.upgrade_levels.tracker
    except ValueError as error:
        raise ConfigurationError("[upgrade_levels] tracker must be a version such as 1.0") from error
    return cap
