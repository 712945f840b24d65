# SPDX-License-Identifier: Apache-2.0
"""Options and groups of a configuration that nobody has registered: oslo.config ignores them without a word.

The files are parsed as oslo.config parses them: the names of groups are compared without regard to case (but for DEFAULT),
those of options exactly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from oslo_config import cfg

_ENVIRONMENT = re.compile(r"OS_([A-Z0-9_]+?)__([A-Z0-9_]+)")
# How much two names must have in common for one to be proposed for the other: ``host`` and ``hosts`` have 0.89.
_LIKE = 0.7
ENVIRONMENT = "the environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A name that means nothing. ``option`` None: the whole group does. ``place``: the file, or ENVIRONMENT. ``meant``: group
    and option (None for a group) that have a similar name, or the option's name in another group. ``is_one_line``: the value
    has one line."""

    group: str
    option: str | None
    place: str
    meant: tuple[str, str | None] | None = None
    is_one_line: bool = True

    def __str__(self) -> str:
        what = f"[{self.group}]" if self.option is None else f"[{self.group}] {self.option}"
        kind = "group" if self.option is None else "option"
        sentence = f"{what} in {self.place} is no {kind} of this program and has no effect"
        if self.meant is None:
            return sentence
        group, option = self.meant
        if option is None:
            return f"{sentence}; did you mean [{group}]?"
        return f"{sentence}; did you mean {option if _same(group, self.group) else f'[{group}] {option}'}?"


Sections = Mapping[str, Mapping[str, list[str]]]
"""Group -> option -> the values that it has in a file."""


def configuration_files(conf: cfg.ConfigOpts) -> list[Path]:
    """The files that ``conf`` was read from, in their order, without pipes, which can be read only once."""
    files = [Path(name) for name in conf.config_file or []]
    for directory in conf.config_dir or []:
        files += sorted(Path(directory).expanduser().glob("*.conf"))
    return [file for file in files if file.is_file()]


def parsed(file: Path) -> Sections:
    """The groups and options of a configuration file. Raises cfg.ParseError, OSError: it cannot be read."""
    sections: dict[str, dict[str, list[str]]] = {}
    cfg.ConfigParser(str(file), sections).parse()
    return sections


def known_options(conf: cfg.ConfigOpts, others: Iterable[tuple[str, cfg.Opt]] = ()) -> dict[str, dict[str, cfg.Opt]]:
    """Group -> name in a file -> option, of what is registered on ``conf`` and of ``others``, which libraries register when
    they need it."""
    known: dict[str, dict[str, cfg.Opt]] = {"DEFAULT": {}}
    # The only way to the options themselves, with the names that they had before.
    registered = [(group.name if group else "DEFAULT", info["opt"]) for info, group in conf._all_opt_infos()]
    for group, option in (*registered, *others):
        known.setdefault(group, {})[option.dest] = option
        for old in option.deprecated_opts:
            known.setdefault(old.group or group, {})[old.name or option.dest] = option
    return known


def unknown_options(conf: cfg.ConfigOpts, known: Mapping[str, Mapping[str, cfg.Opt]]) -> list[Unknown]:
    """The options and groups of the files and the environment that are not ``known``, in the order of the files."""
    found = [each for file in configuration_files(conf) for each in _unknown_in(file, known)]
    return [*found, *_unknown_in_environment(os.environ, known)]


def _unknown_in(file: Path, known: Mapping[str, Mapping[str, Any]]) -> Iterator[Unknown]:
    groups = {_normalised(name): name for name in known}
    for group, options in parsed(file).items():
        name = groups.get(_normalised(group))
        if name is None:
            if options:
                meant = _like(group, known)
                yield Unknown(group=group, option=None, place=str(file), meant=(meant, None) if meant else None)
            continue
        for option, values in options.items():
            if option not in known[name]:
                yield Unknown(
                    group=group,
                    option=option,
                    place=str(file),
                    meant=_meant(name, option, known),
                    is_one_line=all("\n" not in value for value in values),
                )


def _unknown_in_environment(
    environment: Mapping[str, str], known: Mapping[str, Mapping[str, Any]]
) -> Iterator[Unknown]:
    """Variables of groups that are known: others may be meant for another program."""
    groups = {name.upper(): name for name in known}
    for variable in sorted(environment):
        found = _ENVIRONMENT.fullmatch(variable)
        if found is None or (group := groups.get(found[1])) is None:
            continue
        option = found[2].lower()
        if option not in known[group]:
            yield Unknown(group=group, option=option, place=ENVIRONMENT, meant=_meant(group, option, known))


def _meant(group: str, option: str, known: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    near = _like(option, known[group])
    if near is not None:
        return group, near
    elsewhere = [other for other, options in known.items() if option in options]
    return (elsewhere[0], option) if len(elsewhere) == 1 else None


def _like(name: str, names: Iterable[str]) -> str | None:
    lower = {each.lower(): each for each in names}
    near = get_close_matches(name.lower(), lower, n=1, cutoff=_LIKE)
    return lower[near[0]] if near else None


def _normalised(group: str) -> str:
    return group if group == "DEFAULT" else group.lower()


def _same(one: str, other: str) -> bool:
    return _normalised(one) == _normalised(other)
