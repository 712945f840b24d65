# SPDX-License-Identifier: Apache-2.0
"""Options and groups that mean nothing, and how each is mended."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from oslo_config import cfg

from tracker_worker.cli.check.findings import Problem, error
from tracker_worker.cli.check.subjects import Installation
from tracker_worker.cli.sample import groups
from tracker_worker.conf.unknown import ENVIRONMENT, Unknown, known_options, unknown_options


def find_unknown(conf: cfg.ConfigOpts) -> list[Unknown]:
    """The options and groups of the configuration that neither the program nor the sample knows."""
    return unknown_options(conf, known(conf))


def known(conf: cfg.ConfigOpts) -> dict[str, dict[str, cfg.Opt]]:
    """Group -> name -> option, of all that the program reads: libraries register some of it only when they need it, and the
    sample has these too."""
    others = ((group, each) for group, found in groups().items() for _, options in found for each in options)
    return known_options(conf, others)


def check_options(installation: Installation) -> Iterator[Problem]:
    """Every option and every group of the files and the environment has a meaning."""
    for unknown in find_unknown(installation.conf):
        yield error(str(unknown), cure(unknown))


def cure(unknown: Unknown) -> str:
    """What mends it. A value is never quoted, because it may be a password under a wrong name."""
    group, option, place = unknown.group, unknown.option, unknown.place
    if place == ENVIRONMENT:
        return f"unset OS_{group.upper()}__{str(option).upper()}"
    if option is None:
        if unknown.meant is not None:
            return _sed("-i", rf"s/^\[{_pattern(group)}\]\s*$/[{unknown.meant[0]}]/", place)
        return _sed("-i", _within(group, "d"), place)
    line = rf"^{_pattern(option)}\s*[=:]"
    if not unknown.is_one_line:
        where = "" if unknown.meant is None else f", and write it as [{unknown.meant[0]}] {unknown.meant[1]}"
        return f"take {option}, with all lines of its value, out of [{group}] of {place}{where}"
    if unknown.meant is None:
        return _sed("-i", _within(group, f"/{line}/d"), place)
    right_group, right = unknown.meant
    if right_group.lower() == group.lower():
        return _sed("-i", _within(group, rf"s/^{_pattern(option)}\(\s*[=:]\)/{right}\1/"), place)
    take = _sed("-i.old", _within(group, f"/{line}/d"), place)
    show = _sed("-n", _within(group, f"/{line}/p"), f"{place}.old")
    return f"{take} && {{ printf '\\n[{right_group}]\\n'; {show}; }} >> {shlex.quote(place)}"


def _within(group: str, command: str) -> str:
    """A script of sed that executes a command on each line of a group, its header included. The hold space has the header."""
    return rf"/^\[/h; x; /^\[{_pattern(group)}\]\s*$/{{x; {command}; b;}}; x"


def _pattern(name: str) -> str:
    """The name in a basic regular expression of sed."""
    return re.sub(r"([\\/.*\[\]^$&])", r"\\\1", name)


def _sed(option: str, script: str, file: str) -> str:
    return shlex.join(["sed", option, script, file])
