# SPDX-License-Identifier: Apache-2.0
"""What callers are told, when, and what the database has by then.

- No command is answered or acknowledged before its row of the inbox is stored.
- One command is told one thing, however many copies of it there are.
- While nothing is wrong, every call is answered within moments. While nothing but the store is away, every call is told so
  before its caller stops waiting.
- What nobody waits for any more is not done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from tests.invariants.messages import COMMANDS
from tests.simulation.machine import Machine
from tests.simulation.queues import Stored
from tests.simulation.stage import START_MICROSECONDS, Stage
from tests.simulation.troubles import AWAY, Troubles
from tests.simulation.watch import Violation
from tracker_worker.store.base import Commit, Store

_PROMPT_SECONDS = 3.0
"""A call is answered within this time where nothing is wrong."""
_TELLS_SECONDS = 5.0
"""A worker that has had a call for this time tells it that the store is away."""
_LATE_SECONDS = 1.0
_READS_SECONDS = 0.1
"""A worker that does not pause has read within this time what it was given."""
_NOTICED_SECONDS = 20.0
"""Some time after the database has gone back, workers know of no answer that it does not have."""
_UNDECIDED = frozenset(("StoreUnavailable", "InventoryUnavailable", "HostNotServed"))
"""Errors after which a copy of the call may be told another thing."""
_SLOW = frozenset(("update_available_resource",))
"""Methods that wait for drivers."""


class Answers:
    """``decided``: the ids of the commands that a worker has answered with what it has decided."""

    def __init__(
        self,
        stage: Stage,
        troubles: Troubles,
        store: Callable[[], Store],
        parked: Callable[[str], bool],
        there: Callable[[str], bool],
        *,
        every: int = 1,
    ) -> None:
        """``store`` is the database; one in ``every`` answers is looked for there. ``parked``: whether the message of this id
        is a dead letter. ``there``: whether a worker has had the message of this id since it came."""
        self._stage = stage
        self._troubles = troubles
        self._store = store
        self._parked = parked
        self._there = there
        self._every = every
        self._looked = 0
        self._told: dict[str, tuple[Any, Any]] = {}
        self._deadlines: dict[str, tuple[float, float]] = {}
        """Of the calls that were given to workers: when it was done last, and how long they then may wait."""
        self._arrived: dict[str, float] = {}
        self._since = 0.0
        self.decided: set[str] = set()

    def went_back(self) -> None:
        """The database is as it was before: what was told until now may be decided once more."""
        self._told.clear()
        self._since = self._stage.now

    def published(self, message: Stored) -> None:
        """A message has come to a queue."""
        if message.message_id:
            self._arrived.setdefault(message.message_id, self._stage.now)

    def given(self, message: Stored) -> None:
        """A worker is given a message."""
        if message.message_id and message.expires_at is not None:
            self._deadlines[message.message_id] = self._stage.now, message.expires_at - message.came_at

    def told(self, asked: Mapping[str, Any], reply: Mapping[str, Any], *, waits: bool) -> None:
        """A caller was told ``reply``. ``waits``: it still waits for it."""
        unique_id = str(asked["unique_id"])
        if waits:
            self._check_time(asked, "was answered")
        failure = json.loads(reply["failure"]) if reply["failure"] is not None else None
        if asked["method"] not in COMMANDS or (failure is not None and failure["class"] in _UNDECIDED):
            return
        if asked["sent_at"] < self._since and self._stage.now < self._since + _NOTICED_SECONDS:
            return
        what = reply["result"], None if failure is None else (failure["class"], failure.get("kwargs"))
        known = self._told.setdefault(unique_id, what)
        _demand(known == what, f"call {unique_id} ({asked['method']}) was told {known}, and then {what}")
        if failure is None:
            self.decided.add(unique_id)
            self._demand_stored(unique_id, f"call {unique_id} ({asked['method']}) was answered")

    def given_up(self, asked: Mapping[str, Any]) -> None:
        """A caller has stopped waiting."""
        self._check_time(asked, "was not answered")
        troubles, now = self._troubles, self._stage.now
        arrived = self._arrived.get(asked["unique_id"], now)
        waited = arrived + _TELLS_SECONDS < now and troubles.only(AWAY, asked["sent_at"])
        if waited and self._there(asked["unique_id"]):
            raise Violation(
                f"call {asked['unique_id']} ({asked['method']} on {asked['host']}), sent at {asked['sent_at']:.3f}, was told "
                f"nothing by {now:.3f}, not even that the store is away"
            )

    def _check_time(self, asked: Mapping[str, Any], what: str) -> None:
        passed = self._stage.now - self._arrived.get(asked["unique_id"], self._stage.now)
        if passed > _PROMPT_SECONDS and asked["method"] not in _SLOW and self._troubles.none(asked["sent_at"]):
            raise Violation(
                f"call {asked['unique_id']} ({asked['method']} on {asked['host']}) {what} after {passed:.3f} s, although "
                "nothing was wrong"
            )

    def acknowledged(self, message: Stored) -> None:
        """The broker forgets a message. ``message_id`` is that of a cast which is a command, or of a call."""
        unique_id = message.message_id
        before = self._arrived.get(unique_id, -1.0) < self._since and message.came_at < self._since + _NOTICED_SECONDS
        known = not unique_id or message.expires_at is not None or before
        if not known:
            self._demand_stored(unique_id, f"cast {unique_id} was acknowledged", or_else=self._parked)

    def _demand_stored(self, unique_id: str, what: str, or_else: Callable[[str], bool] = lambda _: False) -> None:
        self._looked += 1
        if self._looked % self._every == 0:
            there = bool(self._store().answered([unique_id])) or or_else(unique_id)
            _demand(there, f"{what}, and the inbox does not have it")

    def committed(self, machine: Machine, commit: Commit) -> None:
        """The store has taken a commit of a process on the machine."""
        if self._troubles.stepped:
            return  # the time of a row says nothing
        for row in commit.inbox_rows:
            given_at, seconds = self._deadlines.get(row.unique_id, (0.0, math.inf))
            decided_at = (row.received_at - START_MICROSECONDS) / 1_000_000
            late = decided_at > given_at + seconds + _LATE_SECONDS
            if late and not machine.paused_within(given_at, given_at + _READS_SECONDS):
                raise Violation(
                    f"call {row.unique_id} was done at {decided_at:.3f}; it was given to a worker at {given_at:.3f}, and its "
                    f"caller waits for {seconds:.3f} s"
                )


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)
