# SPDX-License-Identifier: Apache-2.0
"""What the sample configuration shows: everything that a worker reads, whoever defines it. An entry point."""

from __future__ import annotations

import copy

from oslo_config import cfg

from tracker_worker.conf.opts import list_opts

NAMESPACE = "tracker_worker.sample"

_MESSAGING = ("transport_url", "control_exchange", "rpc_response_timeout")
_RABBIT = "oslo_messaging_rabbit"
# Their defaults are this process's.
_ELSEWHERE = {"hostname": "<the name of this machine>", "processname": "<the name of the program>"}


def sample_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Group and options: ours, oslo.log's, and those of oslo.messaging that say how to reach the broker."""
    from oslo_log import _options
    import oslo_messaging.opts

    messaging = dict(oslo_messaging.opts.list_opts())
    named = {option.name: option for option in messaging[None]}
    return [
        ("DEFAULT", [named[name] for name in _MESSAGING]),
        *((group or "DEFAULT", list(options)) for group, options in _options.list_opts()),
        *list_opts(),
        (_RABBIT, [_anywhere(option) for option in messaging[_RABBIT]]),
    ]


def _anywhere(option: cfg.Opt) -> cfg.Opt:
    if option.name not in _ELSEWHERE:
        return option
    shown = copy.copy(option)
    shown.sample_default = _ELSEWHERE[option.name]
    return shown
