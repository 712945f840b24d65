# SPDX-License-Identifier: Apache-2.0
"""The books of a consumer of notifications: what each project was charged, and what proves it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

from tracker_worker.billing import bills, catching_up, forgetting, times
from tracker_worker.billing.bills import Difference, Usage
from tracker_worker.billing.catching_up import API
from tracker_worker.billing.histories import Histories, Range
from tracker_worker.billing.journal import Journal
from tracker_worker.billing.reading import Heard, Unreadable, read
from tracker_worker.billing.replay import Node, replay
from tracker_worker.billing.state import State, transaction
from tracker_worker.billing.streams import Stream
from tracker_worker.billing.timeline import Place

Time = str | datetime
NEW, COPY, EARLY, ODD = "new", "copy", "early", "odd"
_MOST_ODD_CHARACTERS = 65536
_MOST_ODD_LEVELS = 50


class Books:
    """Books in ``state``, a mapping of text to JSON values: a dict, or a SqliteState. Used by one thread at a time; nothing
    else writes to the state. Each method that changes the books is one transaction of it.

    Messages may come in any order, several times, or not at all: the books are right for what is known. Times are ISO 8601
    texts, UTC where they have no offset, or datetimes with a time zone.

    Raises ValueError: the state is of another version.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        with transaction(state):
            self._journal = Journal(state)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep everything that is heard within the block in one transaction of the state, or, after an exception, nothing."""
        try:
            with transaction(self._state):
                yield
        except BaseException:
            self._journal = Journal(self._state)  # what is in memory may be ahead of what is kept
            raise

    # --- hearing -----------------------------------------------------------------------------------------------------

    def hear(self, message: Mapping[str, Any]) -> str:
        """Take in a decoded message, of which ``message_id``, ``event_type`` and ``payload`` count. What was heard is in the
        state when this returns.

        ``new``: its number is the next one of its host and node, or fills a gap behind which nothing is missing; ``early``: a
        number before it is missing; ``copy``: its number is known; ``odd``: see ``odd``. Never raises because of the message.
        """
        with self.transaction():
            return self._take(message)

    def hear_all(self, messages: Iterable[Mapping[str, Any]]) -> list[str]:
        """Take in many messages in one transaction; the answers as of ``hear``."""
        with self.transaction():
            return [self._take(message) for message in messages]

    @property
    def odd(self) -> list[tuple[Any, str]]:
        """The last 1000 odd messages, each with the reason: what is no notification of a tracker-worker, and is left out; what
        has the number of another message, and is left out; and what counts though it is not the usual course: the first word of
        another ledger_id, numbers that a later history has taken back, and numbers that are lost."""
        return self._journal.odd()

    def clear_odd(self) -> None:
        """Forget the odd messages."""
        with self.transaction():
            self._journal.clear_odd()

    # --- what is missing ---------------------------------------------------------------------------------------------

    def missing(self) -> dict[Place, list[Range]]:
        """The numbers that are not known, as ranges (first, last), by host and node. Of a node of which nothing is known but
        what came lately, everything before is missing, until ``catch_up``."""
        found: dict[Place, list[Range]] = {}
        for plan in Histories(self._journal.streams).plans():
            ranges = plan.missing()
            if ranges:
                found.setdefault(plan.place, []).extend(ranges)
        return found

    def catch_up(self, api: API, context: Any, nodes: Collection[Place] | None = None) -> dict[Place, list[Range]]:
        """Get what is missing from the workers, up to now, of these nodes (host, node); None: of all that are known. ``api``: a
        TrackerAPI.

        A node of which the beginning is not known, and one of which the outbox no longer keeps what is missing, start from what
        is charged now. Returns the numbers that were needed and are lost, by host and node; ``odd`` has them too. Raises what
        ``api`` raises; what was caught up until then is kept.
        """
        places = sorted(self._journal.streams.of_place) if nodes is None else nodes
        return catching_up.catch_up(self, self._journal, api, context, places)

    # --- bills ---------------------------------------------------------------------------------------------------------

    def usage(self, begin: Time, end: Time, source: Literal["events", "exists"] = "events") -> Usage:
        """What each project was charged from ``begin`` until before ``end``: by the events alone, or by the exists
        notifications alone. By the events, what is charged after the last event goes on until ``end``.

        Raises ValueError: a time is none, ``end`` is not after ``begin``, the books were told to forget what lies before a time
        after ``begin``, or, with exists, a period that was adjusted later lies partly outside.
        """
        first, last = self._interval(begin, end)
        if source == "events":
            return bills.from_events(self._nodes(), first, last)
        if source != "exists":
            raise ValueError(f"source is events or exists, not {source!r}")
        plans = [plan for plan in Histories(self._journal.streams).plans() if not plan.untold]
        return bills.from_exists(plans, self._journal, first, last)

    def differences(self, begin: Time, end: Time) -> list[Difference]:
        """Where the usage by events is not that by exists: project, instance, resource class or ``seconds``, and both amounts.
        Raises what ``usage`` raises."""
        return bills.differences(self.usage(begin, end, "events"), self.usage(begin, end, "exists"))

    def closed(self, begin: Time, end: Time) -> list[Place]:
        """The nodes (host, node) of which this time is not closed: not all of its periods have ended, not everything that
        belongs to them is known, or it is not known whether it happened. Raises what ``usage`` raises."""
        first, last = self._interval(begin, end)
        untold = {plan.place for plan in Histories(self._journal.streams).plans() if plan.is_doubtful(first)}
        return sorted(untold | {node.place for node in self._nodes() if not node.is_closed(first, last)})

    def forget(self, before: Time) -> None:
        """Drop what lies before that time, and keep what is charged then. The books begin at that time afterwards. Where a
        number is missing, what follows it is kept until it is known. Raises ValueError: it is no time."""
        at = times.seconds(before)
        with self.transaction():
            forgetting.forget(self._journal, at)

    def _interval(self, begin: Time, end: Time) -> tuple[int, int]:
        first, last = times.interval(begin, end)
        if first < self._journal.forgotten:
            raise ValueError(f"the books begin at {times.text(self._journal.forgotten)}")
        return first, last

    def _nodes(self) -> list[Node]:
        histories = Histories(self._journal.streams)
        plans = [plan for plan in histories.plans() if not plan.untold]
        return replay(plans, histories.links(plans), self._journal)[1]

    # --- hearing, inside -----------------------------------------------------------------------------------------------

    def _take(self, message: Mapping[str, Any]) -> str:
        try:
            heard = read(message)
        except Unreadable as unreadable:
            return self._odd(message, str(unreadable))
        return self._hear(heard, message)

    def _hear(self, heard: Heard, message: Mapping[str, Any]) -> str:
        stream = self._journal.streams.get(heard.ledger, heard.place)
        if stream is not None:
            if heard.sequence in stream.numbers:
                known = self._journal.record(stream, heard.sequence)["id"]
                if known == heard.record["id"]:
                    return COPY
                return self._odd(message, f"the number {heard.sequence} is that of the message {known}")
            if heard.sequence <= stream.forgotten:
                return COPY
        reason = self._contradiction(heard, stream)
        if reason is None:
            reason = self._unusual(heard)
            stream = self._journal.add(heard)
            if reason is None:
                return NEW if stream.numbers.has(stream.base() + 1, heard.sequence) else EARLY
        return self._odd(message, reason)

    def _contradiction(self, heard: Heard, stream: Stream | None) -> str | None:
        """Why a message does not count, though it can be read."""
        begun = None if stream is None else stream.announced
        if begun is not None and heard.sequence < begun[2]:
            return f"the history {heard.ledger} begins with the number {begun[2]}"
        if "history" in heard.record:
            ledger = heard.record["history"][0]
            if begun is not None or heard.ledger in Histories(self._journal.streams).before(ledger):
                return f"the history {heard.ledger} has begun already"
        return None

    def _unusual(self, heard: Heard) -> str | None:
        """Why a message that counts is odd."""
        host, node = heard.place
        end = self._journal.streams.ends.get(heard.place, {}).get(heard.ledger)
        if end is not None and heard.sequence > end:
            return f"it never happened: the history {heard.ledger} of {host}/{node} ends with the number {end}"
        if "history" in heard.record:
            ledger, last = heard.record["history"]
            before = self._journal.streams.get(ledger, heard.place)
            void = 0 if before is None else before.numbers.above(last)
            return f"the history {ledger} of {host}/{node} ends with the number {last}: {void} messages never happened"
        others = self._journal.streams.began.get(host, {})
        if others and heard.ledger not in others:
            histories = Histories(self._journal.streams)
            if not any(histories.related(heard.ledger, other) for other in others):
                return f"nothing announces the ledger {heard.ledger} of the host {host}: it is another database"
        return None

    def _odd(self, message: Any, reason: str) -> str:
        self._journal.add_odd(_kept(message), reason)
        return ODD


def _kept(message: Any) -> Any:
    """A message as JSON values, or the beginning of its text where it is too long, or so deep that a state might not be able to
    write it."""
    try:
        text = json.dumps(message)
    except (TypeError, ValueError, RecursionError) as error:
        return {"unreadable": f"{type(message).__name__}: {type(error).__name__}"}
    if len(text) > _MOST_ODD_CHARACTERS or _is_deep(message, _MOST_ODD_LEVELS):
        return {"beginning": text[:_MOST_ODD_CHARACTERS]}
    return json.loads(text)


def _is_deep(value: Any, levels: int) -> bool:
    """Whether objects and lists are within one another on more than so many levels."""
    if not isinstance(value, dict | list | tuple):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deep(part, levels - 1) for part in parts)
