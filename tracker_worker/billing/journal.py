# SPDX-License-Identifier: Apache-2.0
"""What was heard, and its place in the state.

The names in the state are JSON lists:

- ``["books"]``: the version, the time that the books begin at, and which history goes on which;
- ``["stream", ledger, host, node]``: what is known of a stream beside its events;
- ``["event", ledger, host, node, sequence]``: a record (see ``reading``);
- ``["page", ledger, host, node, sequence, after]``: what a node was charged as of a number, for the uuids behind one up to
  ``to`` (null: all): ``instances``, and ``at``, the time of that (of a node without instances, a time before it; null: it is
  not known); ``nobody``: no node had the name;
- ``["ends", host, node]``: the last number that counts of each history of the name that has ended, by ledger;
- ``["odd", number]``: a message and the reason.
"""

from __future__ import annotations

import json
from typing import Any

from tracker_worker.billing.reading import Heard, Record
from tracker_worker.billing.state import State
from tracker_worker.billing.streams import Stream, Streams

MOST_ODD = 1000
"""So many odd messages are kept."""
_VERSION = 1
_FIELDS = ("starts", "forgotten", "announced", "began", "links", "pages", "proof", "gone")


class Journal:
    """``streams``: what was heard of. ``forgotten``: the time that the books begin at.

    Raises ValueError: the state is of another version.
    """

    def __init__(self, state: State) -> None:
        self.streams = Streams()
        self.forgotten = 0
        self._state = state
        self._odd: list[int] = []
        known = state.get(_name("books"))
        if known is None:
            self._save_books()
        elif known["version"] != _VERSION:
            raise ValueError(f"the state is of version {known['version']}, and this release keeps books of {_VERSION}")
        else:
            self.forgotten = known["forgotten"]
            self.streams.previous.update(known["previous"])
        for name in state:
            self._load(name)
        self._odd.sort()

    def _load(self, name: str) -> None:
        kind, *parts = json.loads(name)
        if kind == "event":
            ledger, host, node, sequence = parts
            self.streams.make(ledger, (host, node)).numbers.add(sequence)
        elif kind == "stream":
            ledger, host, node = parts
            stream = self.streams.make(ledger, (host, node))
            for field, value in self._state[name].items():
                setattr(stream, field, value)
            stream.pages = [(sequence, after) for sequence, after in stream.pages]
            if stream.announced is not None:
                before, last, told = stream.announced
                stream.announced = before, last, told
            self.streams.index(stream)
        elif kind == "ends":
            host, node = parts
            for ledger, last in self._state[name].items():
                self.streams.add_end((host, node), ledger, last)
        elif kind == "odd":
            self._odd.append(parts[0])

    def save(self, stream: Stream) -> None:
        """Write what is known of a stream beside its events."""
        self.streams.index(stream)
        self._state[_name("stream", *_parts(stream))] = {name: getattr(stream, name) for name in _FIELDS}

    # --- events and pages ------------------------------------------------------------------------------------------------

    def add(self, heard: Heard) -> Stream:
        """Write a record whose number is new, and what it says of its stream."""
        stream = self.streams.make(heard.ledger, heard.place)
        record = heard.record
        stream.numbers.add(heard.sequence)
        self._state[_name("event", *_parts(stream), heard.sequence)] = record
        changed = stream.began is None or record["at"] < stream.began
        if changed:
            stream.began = record["at"]
        if "history" in record:
            ledger, last = record["history"]
            stream.announced = ledger, last, heard.sequence
            self.save(self.streams.make(ledger, heard.place))
            self.streams.index(stream)
            self._save_books()
            self._state[_name("ends", *heard.place)] = dict(self.streams.ends[heard.place])
            changed = True
        for side in ("to", "from"):
            if side in record:
                link = {"sequence": heard.sequence, "generation": record["generation"], "at": record["at"]}
                stream.add_link({**link, side: record[side]})
                changed = True
        if changed:
            self.save(stream)
        return stream

    def record(self, stream: Stream, sequence: int) -> Record:
        record: Record = self._state[_name("event", *_parts(stream), sequence)]
        return record

    def add_page(self, stream: Stream, sequence: int, after: str, page: Record) -> None:
        """Write what a node is charged for as of a number, for the uuids behind ``after``. The caller saves the stream."""
        self._state[_name("page", *_parts(stream), sequence, after)] = page
        stream.add_page(sequence, after)

    def page(self, stream: Stream, sequence: int, after: str) -> Record:
        page: Record = self._state[_name("page", *_parts(stream), sequence, after)]
        return page

    # --- forgetting ------------------------------------------------------------------------------------------------------

    def drop(self, stream: Stream, upto: int | None = None) -> None:
        """Delete the events and the pages up to a number; the caller saves the stream. None: delete the whole stream."""
        for sequence in list(stream.numbers.upto(upto)):
            del self._state[_name("event", *_parts(stream), sequence)]
        for sequence, after in stream.pages:
            if upto is None or sequence <= upto:
                del self._state[_name("page", *_parts(stream), sequence, after)]
        if upto is not None:
            stream.forget(upto)
            return
        self._state.pop(_name("stream", *_parts(stream)), None)
        self.streams.drop(stream)

    def forget(self, before: int) -> None:
        """Note that the books begin at that time."""
        self.forgotten = max(self.forgotten, before)
        self._save_books()

    # --- odd messages ----------------------------------------------------------------------------------------------------

    def add_odd(self, message: Any, reason: str) -> None:
        """Keep an odd message; if there are too many, the oldest one goes."""
        number = self._odd[-1] + 1 if self._odd else 1
        self._state[_name("odd", number)] = [message, reason]
        self._odd.append(number)
        while len(self._odd) > MOST_ODD:
            del self._state[_name("odd", self._odd.pop(0))]

    def odd(self) -> list[tuple[Any, str]]:
        found = [self._state[_name("odd", number)] for number in self._odd]
        return [(message, reason) for message, reason in found]

    def clear_odd(self) -> None:
        while self._odd:
            del self._state[_name("odd", self._odd.pop())]

    def _save_books(self) -> None:
        kept = {"version": _VERSION, "forgotten": self.forgotten, "previous": dict(self.streams.previous)}
        self._state[_name("books")] = kept


def _name(*parts: Any) -> str:
    return json.dumps(parts, separators=(",", ":"))


def _parts(stream: Stream) -> tuple[str, str, str]:
    return stream.ledger, *stream.place
