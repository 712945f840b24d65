# SPDX-License-Identifier: Apache-2.0
"""Encoded AMQP tables, without decoding their values.

What a client may encode cannot always be encoded again, or only in more bytes: the headers of a dead letter go out as the
bytes that came. A table is a sequence of entries, and two tables one after the other are one. Layout: AMQP 0-9-1, section
4.2.5.5; the types that RabbitMQ reads are those of its errata, section 3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

_LENGTH = struct.Struct(">I")
# Bytes of the values that have a fixed size, by type.
_FIXED = {
    **dict.fromkeys(b"V", 0),
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"sUu", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"D", 5),
    **dict.fromkeys(b"LldT", 8),
}
_WITH_LENGTH = frozenset(b"SxAF")


class UnreadableTable(ValueError):
    """The bytes are no table, or one with a type of value that is not known."""


def entries(table: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The name of each entry on the top level, with the positions where the entry begins and ends. Raises UnreadableTable."""
    at, size = 0, len(table)
    while at < size:
        begin = at
        name_end = at + 1 + table[at]
        if name_end >= size:
            raise UnreadableTable("the table ends within a name")
        kind = table[name_end]
        at = name_end + 1
        if kind in _WITH_LENGTH:
            if at + _LENGTH.size > size:
                raise UnreadableTable("the table ends within a length")
            at += _LENGTH.size + _LENGTH.unpack_from(table, at)[0]
        elif (fixed := _FIXED.get(kind)) is not None:
            at += fixed
        else:
            raise UnreadableTable(f"a value of the unknown type {kind:#04x}")
        if at > size:
            raise UnreadableTable("the table ends within a value")
        yield table[begin + 1 : name_end], begin, at


def without(table: bytes, is_left_out: Callable[[bytes], bool]) -> bytes:
    """The table without the entries of these names, in its order. Raises UnreadableTable."""
    return b"".join(table[begin:end] for name, begin, end in entries(table) if not is_left_out(name))


def encode_texts(values: Mapping[str, str]) -> bytes:
    """A table of texts. Names have at most 255 bytes; lone surrogates in texts become question marks."""
    parts: list[bytes] = []
    for name, text in values.items():
        key, value = name.encode(), text.encode("utf-8", "replace")
        parts += (bytes([len(key)]), key, b"S", _LENGTH.pack(len(value)), value)
    return b"".join(parts)


def in_properties(properties: bytes, table: bytes) -> bytes:
    """Encoded properties with ``table`` as their application headers; they have none before. Layout: AMQP 0-9-1, 4.2.6.1."""
    (flags,) = _FLAGS.unpack_from(properties)
    at = _FLAGS.size
    for flag in _SHORT_STRINGS_BEFORE_HEADERS:
        if flags & flag:
            at += 1 + properties[at]
    head = _FLAGS.pack(flags | _HEADERS) + properties[_FLAGS.size : at]
    return b"".join((head, _LENGTH.pack(len(table)), table, properties[at:]))


_FLAGS = struct.Struct(">H")
_HEADERS = 0x2000
_SHORT_STRINGS_BEFORE_HEADERS = (0x8000, 0x4000)  # content type, content encoding
