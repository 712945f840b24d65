# SPDX-License-Identifier: Apache-2.0
"""Values, and columns of values as arrays, in PostgreSQL's binary format, which psycopg sends as they are.

A commit sends its rows by column, and a single row by value. psycopg's own arrays look at the type of each element, and take
several times as long; in JSON, the server needs half as long again for thirty claims, and bytes grow by a third.

The format is that of PostgreSQL's ``array_recv`` and of the ``recv`` functions of the element types: big endian, and each
element preceded by its length, which is -1 for a null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from struct import Struct
from typing import Any, NamedTuple

import sqlalchemy as sa
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = Struct(">iiIii").pack  # dimensions, whether there are nulls, type of the elements, their number, first index
_LENGTH = Struct(">i").pack
_NULL = _LENGTH(-1)


class Binary(bytes):
    """A value or an array of PostgreSQL in its binary format. The statement says of which type it is."""


class BinaryDumper(Dumper):
    """Hands a Binary to the server as it is."""

    format = Format.BINARY

    def dump(self, obj: Binary) -> bytes:
        return obj


class Kind(NamedTuple):
    """The type of a column: its ``name`` in SQL, its ``oid`` (PostgreSQL's catalog pg_type), what makes the bytes of a value,
    and what makes those of many values, each with its length; None is no value.

    What makes them raises struct.error or UnicodeError: a value is none of this type."""

    name: str
    oid: int
    encode: Callable[[Any], bytes]
    elements: Callable[[Sequence[Any]], Iterable[bytes]]

    def value(self, value: Any) -> Binary | None:
        """The value by itself, which may be None."""
        return None if value is None else Binary(self.encode(value))

    def array(self, values: Sequence[Any]) -> Binary:
        """The values, of which each may be None, as an array."""
        if None in values:
            present = iter(self.elements([value for value in values if value is not None]))
            elements: Iterable[bytes] = [_NULL if value is None else next(present) for value in values]
        else:
            elements = self.elements(values)
        return Binary(_HEADER(1, None in values, self.oid, len(values), 1) + b"".join(elements))


def _sized(values: Iterable[bytes]) -> list[bytes]:
    return [_LENGTH(len(value)) + value for value in values]


def _packed(name: str, oid: int, code: str) -> Kind:
    """The kind of a number, which ``struct`` packs by ``code``."""
    one = Struct(f">{code}")
    sized = Struct(f">i{code}").pack
    return Kind(name, oid, one.pack, lambda values: map(sized, repeat(one.size), values))


TEXT = Kind("text", 25, str.encode, lambda values: _sized(map(str.encode, values)))
_KINDS: dict[type[sa.types.TypeEngine[Any]], Kind] = {  # the first of which a type is an instance
    sa.Boolean: _packed("boolean", 16, "?"),
    sa.SmallInteger: _packed("smallint", 21, "h"),
    sa.BigInteger: _packed("bigint", 20, "q"),
    sa.Integer: _packed("integer", 23, "i"),
    sa.LargeBinary: Kind("bytea", 17, bytes, _sized),
    sa.String: TEXT,
}


def kind_of(column: sa.Column[Any]) -> Kind:
    """The kind of a column of the schema."""
    return next(kind for type_, kind in _KINDS.items() if isinstance(column.type, type_))
