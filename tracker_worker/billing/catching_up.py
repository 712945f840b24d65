# SPDX-License-Identifier: Apache-2.0
"""Getting what is missing from a worker: its notifications, and what is charged now where they are no longer kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from tracker_worker.billing import times
from tracker_worker.billing.histories import Histories, Plan, Range
from tracker_worker.billing.journal import Journal
from tracker_worker.billing.reading import Record, read_instance
from tracker_worker.billing.timeline import Place

Answer = Mapping[str, Any]
Value = TypeVar("Value")

_LIMIT = 500
"""So many notifications or instances are asked for at a time."""
_ATTEMPTS = 3
"""A node may change its name or its history, and an outbox may lose more, while they are read."""


class API(Protocol):
    """The methods of a TrackerAPI that are called."""

    def get_notifications(
        self, context: Any, host: str, node: str, after_sequence: int = 0, limit: int = 100
    ) -> Answer: ...

    def get_instances(
        self, context: Any, host: str, node: str, after: str | None = None, limit: int = 500
    ) -> Answer: ...


class Listener(Protocol):
    """The books that hear what is got."""

    def hear_all(self, messages: Iterable[Mapping[str, Any]]) -> list[str]: ...

    def transaction(self) -> AbstractContextManager[None]: ...


def catch_up(
    books: Listener, journal: Journal, api: API, context: Any, places: Iterable[Place]
) -> dict[Place, list[Range]]:
    """Get what is missing of some nodes, up to now. Return the numbers that were needed and are lost, of those of which some
    are. Raises what ``api`` raises, and ValueError: its answers are no answers."""
    every = [_CatchingUp(books, journal, api, context, place) for place in places]
    left = [one for one in every if _unless_gone(one.fetch, one.note_gone)]
    # Only now is it known what remains: what a node was charged may have been told under another name.
    lost = {one.place: _unless_gone(one.start, one.note_gone) for one in left}
    return {place: ranges for place, ranges in lost.items() if ranges}


class _CatchingUp:
    """Every method that asks raises the error that says that the ledger of the host has no such name."""

    def __init__(self, books: Listener, journal: Journal, api: API, context: Any, place: Place) -> None:
        self.place = place
        self._books = books
        self._journal = journal
        self._api = api
        self._context = context
        self._told: Answer = {}

    def fetch(self) -> bool:
        """Hear what is missing and still kept. Return true."""
        plans = self._plans()
        after = 0
        if plans and not plans[0].untold:
            stream = plans[0].parts[-1].stream
            firsts = [position.sequence for position, _ in plans[0].gaps()]
            after = min(firsts) - 1 if firsts else max(stream.base(), stream.numbers.highest)
        self._told = self._ask(after)
        if after and self._plan(self._told) is None:
            self._told = self._ask(
                0
            )  # what announces the present history may be before what is known of an earlier one
        if plans or self._told["first"] == 1:
            self._hear(self._told)
        return True

    def start(self) -> list[Range]:
        """Start from what is charged now if something is still missing. Return the numbers that are lost."""
        lost: list[Range] = []
        answer = self._told
        for _ in range(_ATTEMPTS):
            needed = self._needed(answer)
            if not needed:
                break
            gone = self._unknown(answer, needed)
            lost += gone
            answer = self._start(answer, gone)
            self._hear(answer)
        return lost

    def note_gone(self) -> None:
        """Note that the ledger of the host has no such name."""
        with self._books.transaction():
            for plan in self._plans():
                stream = plan.parts[-1].stream
                stream.gone = True
                self._journal.save(stream)

    def _plans(self) -> list[Plan]:
        return Histories(self._journal.streams).of(self.place)

    def _plan(self, answer: Answer) -> Plan | None:
        """What is known of the name in the history of an answer."""
        return next((plan for plan in self._plans() if plan.key[0] == answer["ledger_id"]), None)

    def _needed(self, answer: Answer) -> list[Range]:
        """The numbers that are needed and not known, up to the last one that an answer told."""
        plan, last = self._plan(answer), answer["last"]
        if plan is None:
            return [(1, last)] if last else []
        stream = plan.parts[-1].stream
        known = max(stream.base(), stream.numbers.highest)
        ranges = [(position.sequence, min(until, last)) for position, until in plan.gaps() if position.sequence <= last]
        return [*ranges, (known + 1, last)] if known < last else ranges

    def _unknown(self, answer: Answer, needed: list[Range]) -> list[Range]:
        """Those of the ranges that are lost to the books: none of a name of which they do not know the beginning, and not the
        number at which a node has come to the name, which is needed until it is known what the node was charged."""
        plan = self._plan(answer)
        if plan is None:
            return needed if self._plans() else []
        stream = plan.parts[0].stream
        if len(plan.parts) == 1 and not stream.starts and stream.announced is None and 1 not in stream.numbers:
            return []
        lacking = plan.unfounded
        return [each for each in needed if lacking is None or each != (lacking.sequence, lacking.sequence)]

    def _hear(self, answer: Answer) -> None:
        """Hear what is needed and still kept, up to the last number that ``answer`` told."""
        told, position = answer, 0
        while answer["notifications"]:
            self._books.hear_all(answer["notifications"])
            before, position = position, answer["notifications"][-1]["payload"]["sequence"]
            following = [max(first, position + 1) for first, last in self._needed(told) if last > position]
            if not following or position <= before:
                return
            answer = self._ask(min(following) - 1)

    def _start(self, answer: Answer, gone: list[Range]) -> Answer:
        """Start from what is charged now; ``gone`` are numbers that are lost. Return what follows it."""
        pages = self._pages(answer)
        read = [[read_instance(entry) for entry in page["instances"]] for page in pages]
        now = [times.seconds(entry["occurred_at"]) for page in pages for entry in page["instances"][:1]]
        at = min(now, default=None) or _began(pages[0])
        with self._books.transaction():
            stream = self._journal.streams.make(pages[0]["ledger_id"], self.place)
            after = ""
            for page, instances in zip(pages, read, strict=True):
                charged = {uuid: [[since, charge, list(self.place)]] for uuid, since, charge in instances}
                kept: Record = {"at": at, "to": page["next"], "instances": charged, "nobody": page.get("nobody", False)}
                self._journal.add_page(stream, page["sequence"], after, kept)
                after = page["next"] or ""
            stream.add_start(pages[0]["sequence"])
            if now:
                stream.began = min(now) if stream.began is None else min(*now, stream.began)
            elif at is not None and stream.ledger not in self._journal.streams.began[self.place[0]]:
                stream.began = max(at, self._last_known())
            self._journal.save(stream)
            if gone:
                host, node = self.place
                what = {"host": host, "node": node, "lost": [list(each) for each in gone]}
                self._journal.add_odd(what, "these numbers are lost: the outbox no longer keeps them")
        return self._ask(stream.base())

    def _last_known(self) -> int:
        """The time of the last event that is known of the host."""
        of_host = (
            stream for stream in self._journal.streams if stream.place[0] == self.place[0] and stream.numbers.highest
        )
        return max((self._journal.record(stream, stream.numbers.highest)["at"] for stream in of_host), default=0)

    def _pages(self, answer: Answer) -> list[Answer]:
        """What the node is charged now. All pages are of one history."""
        for _ in range(_ATTEMPTS):
            pages = _unless_gone(self._read_pages, lambda: None)
            if pages is None:
                # No node has the name now, so that nothing is charged as of its last number, if that is still the last one.
                before, answer = answer, self._ask(answer["last"])
                if (before["ledger_id"], before["last"]) == (answer["ledger_id"], answer["last"]):
                    empty = {"sequence": answer["last"], "instances": [], "next": None, "nobody": True}
                    return [{"ledger_id": answer["ledger_id"], **empty}]
            elif len({page["ledger_id"] for page in pages}) == 1:
                return pages
        raise ValueError(f"the name {'/'.join(self.place)} changes its node or its history again and again")

    def _read_pages(self) -> list[Answer]:
        pages: list[Answer] = []
        after: str | None = None
        while True:
            page = self._api.get_instances(self._context, *self.place, after=after, limit=_LIMIT)
            pages.append(page)
            if page["next"] is None:
                return pages
            if after is not None and page["next"] <= after:
                raise ValueError(f"get_instances of {'/'.join(self.place)} does not go on after {after}")
            after = page["next"]

    def _ask(self, after: int) -> Answer:
        return self._api.get_notifications(self._context, *self.place, after_sequence=after, limit=_LIMIT)


def _began(page: Answer) -> int | None:
    """When the open period of a node began, for a page without an instance, which has no time. None: it is not known."""
    told = page.get("audit_period_beginning")
    return times.seconds(told) if told else None


def _unless_gone(ask: Callable[[], Value], gone: Callable[[], None]) -> Value | None:
    """What ``ask`` returns; or None, after ``gone``: the ledger of the host has no such name."""
    try:
        return ask()
    except Exception as error:
        if getattr(error, "code", None) != "node_not_found":
            raise
    gone()
    return None
