# SPDX-License-Identifier: Apache-2.0
"""What a check finds."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_MOST_NAMED = 5


class Level(enum.Enum):
    """How bad it is. The exit code of the command is that of the worst finding."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"

    @property
    def exit_code(self) -> int:
        return {Level.OK: 0, Level.WARNING: 1, Level.ERROR: 2}[self]


@dataclass(frozen=True, slots=True)
class Problem:
    """``message`` is one sentence with the figures and the option concerned; ``cure`` is a command, or a line for the
    configuration file."""

    level: Level
    message: str
    cure: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The problem that the check ``name`` has found; with level OK there is none, and no cure."""

    level: Level
    name: str
    message: str
    cure: str | None

    def view(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        return {**asdict(self), "level": self.level.value}


def warning(message: str, cure: str) -> Problem:
    """Something that works today and should not stay so."""
    return Problem(Level.WARNING, message, cure)


def error(message: str, cure: str) -> Problem:
    """Something that does not work, or that anybody may abuse."""
    return Problem(Level.ERROR, message, cure)


def worst(findings: Iterable[Finding]) -> Level:
    """The highest level among ``findings``; OK where there are none."""
    return max((finding.level for finding in findings), key=lambda level: level.exit_code, default=Level.OK)


def enumerated(names: Sequence[str], most: int = _MOST_NAMED) -> str:
    """Some names in one text: the first ``most`` of them, and how many others there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
