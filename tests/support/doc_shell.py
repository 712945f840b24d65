# SPDX-License-Identifier: Apache-2.0
"""A shell for the commands that pages show. What a page takes from the machine (servers, names, directories of the system) is
replaced by something private of the test; the command itself is the page's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.support.doc_pages import Block

_SECONDS = 300
_CONTINUED = re.compile(r"\\\n\s*")
_VENV = re.compile(r"python3 -m venv (\S+)")


def commands(block: Block) -> list[str]:
    """The commands of a console block, without their prompts and their output, each on one line."""
    lines = _CONTINUED.sub("", block.text).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


class Shell:
    """Runs commands in ``directory``. ``replaced``: pattern -> replacement, of what a page names. ``programs`` are directories
    in which commands are found first. Not thread-safe."""

    def __init__(
        self,
        directory: Path,
        *,
        replaced: Mapping[str, str],
        programs: Iterable[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.ran: list[str] = []
        self._replaced = replaced
        path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
        # Nothing is fetched: an environment finds the dependencies of the package in that of the tests.
        pip = {
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        self.environment = {**os.environ, **pip, **(environment or {}), "PATH": path}

    def text(self, page: str) -> str:
        """What is written instead of a page's text."""
        for pattern, replacement in self._replaced.items():
            page = re.sub(pattern, replacement, page)
        return page

    def run(self, command: str, *, stdin: str = "") -> str:
        """Run one command of a page, which must succeed, and return its stdout."""
        self.ran.append(command)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", _VENV.sub(_made, self.text(command))],
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            start_new_session=True,  # without a terminal, programs read passwords from stdin
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


def _made(match: re.Match[str]) -> str:
    """The command that makes an environment, and one that lets it find what is installed for the tests."""
    python = shlex.quote(sys.executable)
    packages = shlex.quote(sysconfig.get_paths()["purelib"])
    where = f"{match[1]}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/tests.pth"
    # Without a setuptools of its own, which would be the one that Python brings along.
    return f"{python} -m venv {match[1]} && {match[1]}/bin/pip uninstall -q -y setuptools && echo {packages} > {where}"
