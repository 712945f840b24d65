# SPDX-License-Identifier: Apache-2.0
"""Which dead letters are meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import click

from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.dead_letters.message import Letter

# Of an id: fewer letters may stand for it as long as they mean one.
_FEWEST_LETTERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """By ``names``, each a number of the listing or an id; or all that ``everything`` or the other conditions, which must
    hold together, say. Raises click.UsageError: none of these, or several."""

    names: tuple[str, ...] = ()
    everything: bool = False
    unique_id: str | None = None
    code: str | None = None
    older_than_seconds: int | None = None

    def __post_init__(self) -> None:
        conditions = (self.unique_id, self.code, self.older_than_seconds)
        ways = (bool(self.names), self.everything, any(value is not None for value in conditions))
        if sum(ways) != 1:
            raise click.UsageError("Say which: by number or id, by an option, or --all; and by one of these.")

    @property
    def individual(self) -> bool:
        """Somebody has looked at each of them."""
        return bool(self.names) or self.unique_id is not None

    def may_want(self, letter: Letter) -> bool:
        """False only if ``pick`` will not pick it, whatever its number turns out to be."""
        return bool(self.names) or self._holds(letter, None)

    def pick(self, letters: Sequence[Letter], now: datetime) -> list[Letter]:
        """In the order of ``letters``, each once. Raises CommandFailed: what was named is not there."""
        if self.names:
            named = {letter.number for name in self.names for letter in _named(name, letters)}
            return [letter for letter in letters if letter.number in named]
        found = [letter for letter in letters if self._holds(letter, now)]
        if self.unique_id is not None and not found:
            raise CommandFailed(f"there is no dead letter of unique id {self.unique_id}")
        return found

    def _holds(self, letter: Letter, now: datetime | None) -> bool:
        if self.unique_id is not None and letter.unique_id != self.unique_id:
            return False
        if self.code is not None and letter.code != self.code:
            return False
        if self.older_than_seconds is None or now is None:
            return True
        return letter.time is not None and now - letter.time > timedelta(seconds=self.older_than_seconds)


def _named(name: str, letters: Sequence[Letter]) -> list[Letter]:
    """Several are copies of one message."""
    if name.isdecimal():
        found = [letter for letter in letters if str(letter.number) == name]
    else:
        found = [letter for letter in letters if letter.id.startswith(name)] if len(name) >= _FEWEST_LETTERS else []
    if not found:
        raise CommandFailed(f"there is no dead letter {name}")
    ids = {letter.id for letter in found}
    if len(ids) > 1:
        raise CommandFailed(f"{name} may mean each of {', '.join(sorted(ids))}")
    return found
