# SPDX-License-Identifier: Apache-2.0
"""Encoding an answer that may be large: part by part, and only as far as the limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Protocol

import msgspec

from tracker_worker.domain.views import Entries
from tracker_worker.wire.message import to_json, to_msgpack

# A list or an object of more items is encoded item by item, a smaller one in one call.
_MOST_ITEMS = 32


class Overflow(Exception):
    """The value is larger than there is room for; at least ``size`` bytes of it would go out."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Encoded:
    """A value that is there as JSON already."""

    def __init__(self, json: bytes) -> None:
        self.json = json


class Fitting:
    """An answer that is a JSON object: the entries of ``head``, and then, under ``name``, a list of as many of ``items`` as
    there is room for, in order, but of the first one in any case."""

    def __init__(self, head: Mapping[str, Any], name: str, items: Iterable[Any]) -> None:
        self.entries = chain(head.items(), [(name, _Begun(items))])


class _Begun:
    """The list of a Fitting, which ends where the room does."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items


def encode_within(value: Any, room: int, *, packed: bool) -> bytes:
    """``value`` as JSON, or with ``packed`` as msgpack. Iterators become lists, Entries and Fitting objects; all of
    them may be endless.

    Raises Overflow: it has more than ``room`` bytes, as it goes out: in JSON inside of an envelope each quote and each
    backslash counts twice. No more of the value is encoded, or taken out of its iterators, than has room and one item.
    """
    encoder: _Encoder = _MsgpackEncoder(room) if packed else _JSONEncoder(room)
    _encode(encoder, value)
    return bytes(encoder.encoded)


class _Encoder(Protocol):
    """What JSON and msgpack differ in. ``put`` raises Overflow."""

    encoded: bytearray

    def put(self, value: Any) -> None: ...

    def put_json(self, json: bytes) -> None: ...

    def items(self, items: Iterable[Any], *, fitting: bool = False) -> None:
        """A list. ``fitting``: with as many items as there is room for; an object, which has room, ends behind it."""

    def entries(self, entries: Iterable[tuple[str, Any]]) -> None: ...


def _encode(encoder: _Encoder, value: Any) -> None:
    if isinstance(value, Encoded):
        encoder.put_json(value.json)
    elif isinstance(value, Entries):
        encoder.entries(value)
    elif isinstance(value, Fitting):
        encoder.entries(value.entries)
    elif isinstance(value, _Begun):
        encoder.items(value.items, fitting=True)
    elif isinstance(value, Iterator | list):
        encoder.items(value)
    elif isinstance(value, dict) and _in_parts(value):
        encoder.entries(value.items())
    else:
        encoder.put(value)


def _in_parts(value: dict[str, Any]) -> bool:
    return len(value) > _MOST_ITEMS or any(
        isinstance(item, dict | list) and len(item) > _MOST_ITEMS for item in value.values()
    )


class _JSONEncoder:
    def __init__(self, room: int) -> None:
        self.encoded = bytearray()
        self._room = room
        self._escapes = 0

    def put(self, value: Any) -> None:
        self._add(to_json(value))

    def put_json(self, json: bytes) -> None:
        self._add(json)

    def _add(self, part: bytes) -> None:
        self.encoded += part
        self._escapes += part.count(b'"') + part.count(b"\\")
        size = len(self.encoded) + self._escapes
        if size > self._room:
            raise Overflow(size)

    def items(self, items: Iterable[Any], *, fitting: bool = False) -> None:
        ends = len(b"]}") if fitting else 0
        self._room -= ends
        self._add(b"[")
        for number, item in enumerate(items):
            length = len(self.encoded)
            try:
                self._add(b"," if number else b"")
                _encode(self, item)
            except Overflow:
                if not fitting or not number:
                    raise
                self._cut(length)
                break
        self._room += ends
        self._add(b"]")

    def _cut(self, length: int) -> None:
        cut = self.encoded[length:]
        self._escapes -= cut.count(b'"') + cut.count(b"\\")
        del self.encoded[length:]

    def entries(self, entries: Iterable[tuple[str, Any]]) -> None:
        self._add(b"{")
        for number, (key, item) in enumerate(entries):
            self._add((b"," if number else b"") + to_json(key) + b":")
            _encode(self, item)
        self._add(b"}")


class _MsgpackEncoder:
    """msgpack specification: array 32 and map 32, whose number of items is known only at their end."""

    def __init__(self, room: int) -> None:
        self.encoded = bytearray()
        self._room = room

    def put(self, value: Any) -> None:
        self._add(to_msgpack(value))

    def put_json(self, json: bytes) -> None:
        self.put(msgspec.json.decode(json))

    def _add(self, part: bytes) -> None:
        self.encoded += part
        if len(self.encoded) > self._room:
            raise Overflow(len(self.encoded))

    def _begin(self, kind: bytes) -> int:
        self._add(kind + bytes(4))
        return len(self.encoded)

    def _end(self, begin: int, count: int) -> None:
        self.encoded[begin - 4 : begin] = count.to_bytes(4, "big")

    def items(self, items: Iterable[Any], *, fitting: bool = False) -> None:
        begin, count = self._begin(b"\xdd"), 0
        for item in items:
            length = len(self.encoded)
            try:
                _encode(self, item)
            except Overflow:
                if not fitting or not count:
                    raise
                del self.encoded[length:]
                break
            count += 1
        self._end(begin, count)

    def entries(self, entries: Iterable[tuple[str, Any]]) -> None:
        begin, count = self._begin(b"\xdf"), 0
        for key, item in entries:
            self.put(key)
            _encode(self, item)
            count += 1
        self._end(begin, count)
