# SPDX-License-Identifier: Apache-2.0
"""Warnings about requests that are wrong: one line for each sender and each code in a minute, however many there are."""

from __future__ import annotations

import logging

from tracker_worker.history import Entry
from tracker_worker.text import counted, printable

LOG = logging.getLogger(__name__)

_MINUTE_SECONDS = 60.0
# Senders are told apart by what they say of themselves: beyond this number, they are counted together.
_MOST_SENDERS = 500
_MOST_CHARACTERS = 2000

_Key = tuple[str, str, str, str]
_OTHERS = "(others)"


class RefusalLog:
    """Belongs to one thread. Times are in seconds on one clock."""

    def __init__(self) -> None:
        self._lines: dict[_Key, _Line] = {}

    def refused(self, entry: Entry, now: float) -> None:
        """A request was refused: say so, unless its sender has had a line within this minute."""
        key = entry.asked.project_id, entry.asked.user_id, entry.code, entry.outcome
        if key not in self._lines and len(self._lines) >= _MOST_SENDERS:
            key = _OTHERS, _OTHERS, entry.code, entry.outcome
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(now)
            line.add(entry)
            line.say(key)
        else:
            line.add(entry)

    def look(self, now: float) -> None:
        """Say how many more there were in the minutes that are over."""
        for key, line in list(self._lines.items()):
            if now - line.said_at < _MINUTE_SECONDS:
                continue
            if line.number:
                line.said_at = now
                line.say(key)
            else:
                del self._lines[key]

    def end(self) -> None:
        """Say the rest."""
        for key, line in self._lines.items():
            if line.number:
                line.say(key)
        self._lines.clear()


class _Line:
    """``number``: the requests since the last line; ``last`` is the last one of them."""

    def __init__(self, now: float) -> None:
        self.said_at = now
        self.number = 0
        self.last: Entry | None = None

    def add(self, entry: Entry) -> None:
        self.number += 1
        self.last = entry

    def say(self, key: _Key) -> None:
        project, user, code, outcome = key
        assert self.last is not None
        last = self.last
        done = {"parked": "parked as dead letters", "not_permitted": "not permitted"}.get(outcome, "invalid")
        text = (
            f"{counted(self.number, 'request')} {done}: code={code} project={project or '-'} user={user or '-'}; the last one: "
            f"{last.asked.method or 'unknown method'} host={last.host or '-'} instance={last.instance_uuid or '-'} "
            f"request={last.asked.request_id or '-'}: {last.reason}"
        )
        LOG.warning("%s", printable(text, _MOST_CHARACTERS))
        self.number, self.last = 0, None
