# SPDX-License-Identifier: Apache-2.0
"""The sample configuration: every option that a worker reads, its own and those of the oslo libraries.

The text is the same on every machine.
"""

from __future__ import annotations

import tracker_worker.cli.threading_backend  # noqa: F401 must precede oslo.messaging

# isort: split
import copy
import io
from collections.abc import Iterable
from importlib.metadata import entry_points

from oslo_config import cfg, generator

from tracker_worker.conf import list_opts
from tracker_worker.oslo import opts as messaging_opts

_HELP_WIDTH = 100
_BROKER_OPTIONS = ("transport_url", "control_exchange", "rpc_response_timeout")
_RABBIT = "oslo_messaging_rabbit"
# The defaults of these options are taken from the machine and the program; the sample shows these words instead.
_SHOWN_DEFAULTS = {"hostname": "<the name of this machine>", "processname": "<the name of the program>"}
_HEADER = """\
# The sample configuration of tracker-worker, as `tracker-worker config sample` prints it: every option with its default.
# An option <option> of group <group> is also read from the environment: OS_<GROUP>__<OPTION>.

"""


def sample_configuration() -> str:
    """The text of the file, with every option commented out."""
    # oslo.config's generate() would take all options of a library, but a worker honours only some of oslo.messaging's:
    # therefore only the generator's formatter is used.
    text = io.StringIO(_HEADER)
    text.seek(0, io.SEEK_END)
    formatter = generator._OptFormatter(_generator_conf(), output_file=text)
    for number, (group, origins) in enumerate(groups().items()):
        if number:
            formatter.write("\n\n")
        formatter.format_group(group)
        for origin, options in origins:
            formatter.write(f"\n#\n# From {origin}\n#\n")
            for option in options:
                formatter.write("\n")
                formatter.format(option, group)
    return text.getvalue()


def groups() -> dict[str, list[tuple[str, list[cfg.Opt]]]]:
    """Option group -> pairs of a library's name and the options that it defines in the group."""
    messaging = dict(messaging_opts.list_opts())
    named = {option.name: option for option in messaging[None]}
    groups = {
        "DEFAULT": [("oslo.messaging", [named[name] for name in _BROKER_OPTIONS]), ("oslo.log", list(_log_options()))]
    }
    for group, options in list_opts():
        groups.setdefault(group, []).insert(0, ("tracker-worker", options))
    return {**groups, _RABBIT: [("oslo.messaging", [_with_shown_default(option) for option in messaging[_RABBIT]])]}


def _log_options() -> Iterable[cfg.Opt]:
    (entry_point,) = entry_points(group="oslo.config.opts", name="oslo.log")
    for _group, options in entry_point.load()():
        yield from options


def _with_shown_default(option: cfg.Opt) -> cfg.Opt:
    if option.name not in _SHOWN_DEFAULTS:
        return option
    shown = copy.copy(option)
    shown.sample_default = _SHOWN_DEFAULTS[option.name]
    return shown


def _generator_conf() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(
        ["--namespace=unused", f"--wrap-width={_HELP_WIDTH}"],
        default_config_files=[],
        default_config_dirs=[],
        use_env=False,
    )
    return conf
