# SPDX-License-Identifier: Apache-2.0
"""Which dead-lettered messages the arguments of a subcommand select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import click

from tracker_worker.cli.dead_letters.message import DeadMessage
from tracker_worker.cli.failures import NOT_FOUND, CommandFailed

# The beginning of an id stands for the id when it has at least so many characters and no other id begins with it.
_MIN_ID_CHARACTERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Messages by ``names``, each a number of the listing or an id; or all with ``everything``; or by the conditions
    ``unique_id``, ``code`` and ``older_than_seconds``, of which all that are given must hold.

    Raises click.UsageError: none of these three ways is used, or more than one.
    """

    names: tuple[str, ...] = ()
    everything: bool = False
    unique_id: str | None = None
    code: str | None = None
    older_than_seconds: int | None = None

    def __post_init__(self) -> None:
        conditions = (self.unique_id, self.code, self.older_than_seconds)
        ways = (bool(self.names), self.everything, any(value is not None for value in conditions))
        if sum(ways) != 1:
            raise click.UsageError(
                "Select messages in one way: by number or id, by the options that are conditions, or by --all."
            )

    @property
    def individual(self) -> bool:
        """Whether the operator has named each message, by number, id or unique id."""
        return bool(self.names) or self.unique_id is not None

    def may_want(self, message: DeadMessage) -> bool:
        """Return False only when ``pick`` certainly leaves the message out. Its number need not be known yet."""
        return bool(self.names) or self._matches(message, None)

    def pick(self, messages: Sequence[DeadMessage], now: datetime) -> list[DeadMessage]:
        """The selected messages in the order of ``messages``, each of them once.

        Raises CommandFailed: a number, an id or the unique id belongs to no message, or the beginning of an id to several.
        """
        if self.names:
            numbers = {message.number for name in self.names for message in _named(name, messages)}
            return [message for message in messages if message.number in numbers]
        found = [message for message in messages if self._matches(message, now)]
        if self.unique_id is not None and not found:
            raise CommandFailed(
                f"there is no dead-lettered message with the unique id {self.unique_id}",
                code=NOT_FOUND,
                unique_id=self.unique_id,
            )
        return found

    def _matches(self, message: DeadMessage, now: datetime | None) -> bool:
        if self.unique_id is not None and message.unique_id != self.unique_id:
            return False
        if self.code is not None and message.code != self.code:
            return False
        if self.older_than_seconds is None or now is None:
            return True
        return message.time is not None and now - message.time > timedelta(seconds=self.older_than_seconds)


def _named(name: str, messages: Sequence[DeadMessage]) -> list[DeadMessage]:
    """The message with this number or id; several only when these are copies of one message, which have the same id."""
    if name.isdecimal():
        found = [message for message in messages if str(message.number) == name]
    elif len(name) >= _MIN_ID_CHARACTERS:
        found = [message for message in messages if message.id.startswith(name)]
    else:
        found = []
    if not found:
        raise CommandFailed(f"there is no dead-lettered message {name}", code=NOT_FOUND, name=name)
    ids = {message.id for message in found}
    if len(ids) > 1:
        raise CommandFailed(f"{name} is the beginning of several ids: {', '.join(sorted(ids))}")
    return found
