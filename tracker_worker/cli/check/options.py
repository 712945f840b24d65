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
    header = rf"^\[{_pattern(group)}\]\s*$"
    if option is None:
        if unknown.meant is not None:
            return _sed(f"s/{header}/[{unknown.meant[0]}]/", place)
        return _sed(f"/{header}/,/^\\[/{{/{header}/d;/^\\[/!d}}", place)
    within = f"/{header}/,/^\\[/"
    if unknown.meant is None:
        if unknown.is_one_line:
            return _sed(rf"{within}{{/^{_pattern(option)}\s*[=:]/d}}", place)
        return f"remove {option}, with all lines of its value, from [{group}] of {place}"
    right_group, right = unknown.meant
    if right_group.lower() == group.lower():
        return _sed(rf"{within}s/^{_pattern(option)}\(\s*[=:]\)/{right}\1/", place)
    if not unknown.is_one_line:
        return f"move {right}, with all lines of its value, from [{group}] of {place} to [{right_group}]"
    line = rf"/^{_pattern(option)}\s*[=:]/"
    take = shlex.join(["sed", "-i.old", f"{within}{{{line}d}}", place])
    show = shlex.join(["sed", "-n", f"{within}{{{line}p}}", f"{place}.old"])
    return f"{take} && {{ printf '\n[{right_group}]\n'; {show}; }} >> {shlex.quote(place)}"


def _pattern(name: str) -> str:
    """The name in a basic regular expression of sed."""
    return re.sub(r"([\\/.*\[\]^$&])", r"\\\1", name)


def _sed(script: str, file: str) -> str:
    return shlex.join(["sed", "-i", script, file])
