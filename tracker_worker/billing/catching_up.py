# SPDX-License-Identifier: Apache-2.0
"""Getting what is missing from a worker: its notifications, and what is charged now where they are no longer kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from tracker_worker.billing import times
from tracker_worker.billing.histories import Histories, Plan, Range
from tracker_worker.billing.journal import Journal
from tracker_worker.billing.reading import Record, read_instance
from tracker_worker.billing.timeline import Place

_LIMIT = 500
"""So many notifications or instances are asked for at a time."""
_ATTEMPTS = 3
"""The outbox may lose more while it is read."""


class API(Protocol):
    """The methods of a TrackerAPI that are called."""

    def get_notifications(
        self, context: Any, host: str, node: str, after_sequence: int = 0, limit: int = 100
    ) -> Mapping[str, Any]: ...

    def get_instances(
        self, context: Any, host: str, node: str, after: str | None = None, limit: int = 500
    ) -> Mapping[str, Any]: ...


class Listener(Protocol):
    """The books that hear what is got."""

    def hear_all(self, messages: Iterable[Mapping[str, Any]]) -> list[str]: ...

    def transaction(self) -> AbstractContextManager[None]: ...


def catch_up(books: Listener, journal: Journal, api: API, context: Any, place: Place) -> list[Range]:
    """Get what is missing of one node, up to now. Return the numbers that were needed and are lost. Raises what ``api`` raises,
    and ValueError: its answers are no answers."""
    return _CatchingUp(books, journal, api, context, place).run()


class _CatchingUp:
    def __init__(self, books: Listener, journal: Journal, api: API, context: Any, place: Place) -> None:
        self._books = books
        self._journal = journal
        self._api = api
        self._context = context
        self._place = place

    def run(self) -> list[Range]:
        plans = self._plans()
        after = 0
        if plans and not plans[0].untold:
            stream = plans[0].parts[-1].stream
            firsts = [position.sequence for position, _ in plans[0].gaps()]
            after = min(firsts) - 1 if firsts else max(stream.base, stream.numbers.highest)
        answer = self._unless_gone(partial(self._ask, after))
        if answer is None:
            self._note_gone(plans)
            return []
        if after and self._plan(answer) is None:
            answer = self._ask(0)  # what announces the present history may be before what is known of an earlier one
        lost: list[Range] = []
        if not plans and answer["first"] > 1:
            answer = self._start(answer, [])
        for _ in range(_ATTEMPTS):
            self._fetch(answer)
            needed = self._needed(answer)
            if not needed:
                return lost
            gone = needed if self._has_begun(answer) else []
            lost += gone
            answer = self._start(answer, gone)
        self._fetch(answer)
        return lost

    def _plans(self) -> list[Plan]:
        return Histories(self._journal.streams.values()).of(self._place)

    def _plan(self, answer: Mapping[str, Any]) -> Plan | None:
        """What is known of the name in the history of an answer."""
        return next((plan for plan in self._plans() if plan.key[0] == answer["ledger_id"]), None)

    def _needed(self, answer: Mapping[str, Any]) -> list[Range]:
        """The numbers that are needed and not known, up to the last one that an answer told."""
        plan, last = self._plan(answer), answer["last"]
        if plan is None:
            return [(1, last)] if last else []
        stream = plan.parts[-1].stream
        known = max(stream.base, stream.numbers.highest)
        ranges = [(position.sequence, min(until, last)) for position, until in plan.gaps() if position.sequence <= last]
        return [*ranges, (known + 1, last)] if known < last else ranges

    def _has_begun(self, answer: Mapping[str, Any]) -> bool:
        """Whether the books knew the beginning of the name, so that numbers can be lost to them."""
        plan = self._plan(answer)
        if plan is None or len(plan.parts) > 1:
            return bool(self._plans())
        stream = plan.parts[0].stream
        return stream.started or stream.announced is not None or 1 in stream.numbers

    def _fetch(self, answer: Mapping[str, Any]) -> None:
        """Hear what is needed and still kept, up to the last number that ``answer`` told."""
        told, position = answer, 0
        while answer["notifications"]:
            self._books.hear_all(answer["notifications"])
            before, position = position, answer["notifications"][-1]["payload"]["sequence"]
            following = [max(first, position + 1) for first, last in self._needed(told) if last > position]
            if not following or position <= before:
                return
            answer = self._ask(min(following) - 1)

    def _start(self, answer: Mapping[str, Any], gone: list[Range]) -> Mapping[str, Any]:
        """Start from what is charged now; ``gone`` are numbers that are lost. Return what follows it."""
        for _ in range(_ATTEMPTS):
            pages = self._pages(answer)
            if len({page["ledger_id"] for page in pages}) == 1:
                break
        else:
            raise ValueError(f"the history of {'/'.join(self._place)} changes again and again")
        read = [[read_instance(entry) for entry in page["instances"]] for page in pages]
        times_now = [times.seconds(entry["occurred_at"]) for page in pages for entry in page["instances"][:1]]
        at = min(times_now, default=None)
        with self._books.transaction():
            stream = self._journal.stream(pages[0]["ledger_id"], self._place)
            after = ""
            for page, instances in zip(pages, read, strict=True):
                charged = {uuid: [[since, charge, list(self._place)]] for uuid, since, charge in instances}
                kept: Record = {"at": at, "to": page["next"], "instances": charged}
                self._journal.add_page(stream, page["sequence"], after, kept)
                after = page["next"] or ""
            stream.base = max(stream.base, pages[0]["sequence"])
            stream.started = True
            if at is not None:
                stream.began = at if stream.began is None else min(at, stream.began)
            self._journal.save(stream)
            if gone:
                host, node = self._place
                what = {"host": host, "node": node, "lost": [list(each) for each in gone]}
                self._journal.add_odd(what, "these numbers are lost: the outbox no longer keeps them")
        return self._ask(stream.base)

    def _pages(self, answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        pages: list[Mapping[str, Any]] = []
        after: str | None = None
        while True:
            ask = partial(self._api.get_instances, self._context, *self._place, after=after, limit=_LIMIT)
            page = self._unless_gone(ask)
            if page is None:  # no node has the name now: it is charged nothing
                page = {"ledger_id": answer["ledger_id"], "sequence": answer["last"], "instances": [], "next": None}
            pages.append(page)
            if page["next"] is None:
                return pages
            if after is not None and page["next"] <= after:
                raise ValueError(f"get_instances of {'/'.join(self._place)} does not go on after {after}")
            after = page["next"]

    def _ask(self, after: int) -> Mapping[str, Any]:
        return self._api.get_notifications(self._context, *self._place, after_sequence=after, limit=_LIMIT)

    def _note_gone(self, plans: list[Plan]) -> None:
        with self._books.transaction():
            for plan in plans:
                stream = plan.parts[-1].stream
                stream.gone = True
                self._journal.save(stream)

    @staticmethod
    def _unless_gone(ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The answer, or None: the ledger has no such name."""
        try:
            return ask()
        except Exception as error:
            if getattr(error, "code", None) != "node_not_found":
                raise
            return None
