# SPDX-License-Identifier: Apache-2.0
"""constraints.txt: the releases of all packages that an installation has. ``python tests/support/constraints.py`` writes it
from the packages of the environment in which it runs, with which the tests have passed."""

from __future__ import annotations

import configparser
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILE = ROOT / "constraints.txt"
_EXTRA = "postgresql"
_HEAD = f"""\
# SPDX-License-Identifier: Apache-2.0
#
# The releases of the dependencies with which this release was tested, for Python 3.11 on Linux, extra {_EXTRA} included:
#   pip install --constraint constraints.txt '.[{_EXTRA}]'
# Written by: tox -e constraints
"""


def declared() -> list[Requirement]:
    """The requirements of setup.cfg, with those of the extra."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = [*parser["options"]["install_requires"].split("\n"), *parser["options.extras_require"][_EXTRA].split("\n")]
    return [Requirement(line) for line in lines if line]


def closure(wanted: Iterable[Requirement]) -> dict[str, list[Requirement]]:
    """The requirements for each package that is installed because of these, by its canonical name."""
    found: dict[str, list[Requirement]] = {}
    waiting = deque(wanted)
    seen: set[str] = set()
    while waiting:
        requirement = waiting.popleft()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
        for text in requires(requirement.name) or ():
            further = Requirement(text)
            if any(_applies(further, extra) for extra in ("", *requirement.extras)):
                waiting.append(further)
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def read(text: str) -> dict[str, str]:
    """The pins of a file of constraints: package -> version."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), "each line pins one version"
    return {canonicalize_name(name): pinned for name, pinned in pairs}


def broken(pins: Mapping[str, str], needed: Mapping[str, Iterable[Requirement]]) -> list[str]:
    """The requirements that the pins do not meet, and the packages that have none."""
    wrong = [f"{name} has no pin" for name in needed if name not in pins]
    for name, requirements in needed.items():
        if name in pins:
            wrong += [
                f"{name}=={pins[name]} is not {requirement}"
                for requirement in requirements
                if not requirement.specifier.contains(pins[name], prereleases=True)
            ]
    return wrong + [f"{name} is not needed" for name in pins if name not in needed]


def main() -> None:
    try:
        lines = [f"{name}=={version(name)}\n" for name in sorted(closure(declared()))]
    except PackageNotFoundError as missing:
        sys.exit(f"install the package with the extra {_EXTRA} first: {missing}")
    FILE.write_text(_HEAD + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
