# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker check`` as a test runs it, and an operator who does what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tests.support.worker_process import PROGRAM
from tracker_worker.cli.main import main

_LINE = re.compile(r"\[(?P<group>\w+)\] (?P<option>\w+) = ?(?P<value>.*)")
FIELDS = ["level", "name", "message", "cure"]
SECONDS = 12.0
"""What a check may take in all, on a machine that is not idle."""


class Checker:
    """The command with one configuration file, and ``environment``."""

    def __init__(self, configuration: Path, environment: Mapping[str, str] | None = None) -> None:
        self.configuration = configuration
        self.environment = {**os.environ, **(environment or {})}
        self.configuration.chmod(0o600)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROGRAM), f"--config-file={self.configuration}", "check", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )

    def findings(self, *arguments: str) -> list[dict[str, Any]]:
        """All findings; the exit code is that of the worst of them."""
        # In this process: to start a program takes longer than to check.
        command = [f"--config-file={self.configuration}", "check", *arguments, "--format", "json"]
        unset = dict.fromkeys(os.environ.keys() - self.environment.keys())
        done = CliRunner().invoke(main, command, env={**unset, **self.environment})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.stderr == "", done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        assert all(list(finding) == FIELDS for finding in found)
        assert all((finding["cure"] is None) == (finding["level"] == "ok") for finding in found)
        levels = {finding["level"] for finding in found}
        assert done.exit_code == (2 if "error" in levels else 1 if "warning" in levels else 0)
        return found

    def problems(self, name: str, *arguments: str) -> list[dict[str, Any]]:
        """What the check ``name`` has found, which was done."""
        found = [finding for finding in self.findings(*arguments) if finding["name"] == name]
        assert found, f"the check {name} was not done"
        return [finding for finding in found if finding["level"] != "ok"]

    def one(self, name: str, level: str, *words: str, arguments: tuple[str, ...] = ()) -> str:
        """The cure of the only problem that the check ``name`` has found, which has this level and these words."""
        found = self.problems(name, *arguments)
        assert len(found) == 1, found
        assert found[0]["level"] == level, found
        for word in words:
            assert word in found[0]["message"], (word, found)
        return str(found[0]["cure"])


class Operator:
    """Does what a cure says. ``configure`` writes an option into the file; ``programs``: program -> what runs it with the words
    behind its name, for those that need a server of the test."""

    def __init__(
        self,
        checker: Checker,
        configure: Callable[[str, str, str], object],
        programs: Mapping[str, Callable[[list[str]], object]] | None = None,
    ) -> None:
        self._checker = checker
        self._configure = configure
        self._programs = programs or {}

    def apply(self, cure: str) -> None:
        """Raises subprocess.CalledProcessError: the command fails."""
        line = _LINE.fullmatch(cure)
        if line is not None:
            self._configure(line["group"], line["option"], line["value"])
            return
        program, *words = shlex.split(cure)
        if program in self._programs:
            self._programs[program](words)
        elif program == "unset":
            for name in words:
                del self._checker.environment[name]
        else:
            assert program in ("tracker-worker", "sed", "chmod"), f"no command for a test: {cure}"
            path = f"{PROGRAM.parent}:{self._checker.environment['PATH']}"
            subprocess.run(
                cure,
                shell=True,
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=60,
                env={**self._checker.environment, "PATH": path},
            )


def write_option(file: Path, group: str, option: str, value: str) -> None:
    """Write an option into a configuration file, in place of the one that is there."""
    text = re.sub(rf"^{option} *=.*\n", "", file.read_text("utf-8"), flags=re.MULTILINE)
    file.write_text(f"{text}\n[{group}]\n{option} = {value}\n", encoding="utf-8")
