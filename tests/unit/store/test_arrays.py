# SPDX-License-Identifier: Apache-2.0
"""Values and columns of values for PostgreSQL: the same bytes as psycopg's own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int2, Int4, Int8

from tracker_worker.store.sql.arrays import kind_of

CASES: Sequence[tuple[sa.types.TypeEngine[Any], Any, list[Any]]] = [
    (sa.String(9), str, ["", "a", "Zürich", "x" * 300]),
    (sa.Text(), str, ["{}"]),
    (sa.LargeBinary(), bytes, [b"", b"\x00\xff", bytes(1000)]),
    (sa.Integer(), Int4, [0, -1, 2**31 - 1]),
    (sa.BigInteger(), Int8, [0, -1, 2**63 - 1]),
    (sa.SmallInteger(), Int2, [-1, 1]),
    (sa.Boolean(), bool, [True, False]),
]
NAMES = [str(type_) for type_, _, _ in CASES]


def by_psycopg(values: list[Any]) -> bytes:
    dumper = Transformer().get_dumper(values, PyFormat.BINARY)
    dumped = dumper.dump(values)
    assert dumped is not None
    return bytes(dumped)


@pytest.mark.parametrize(("type_", "wrapped", "values"), CASES, ids=NAMES)
@pytest.mark.parametrize("nulls", [False, True])
def test_the_bytes_are_those_of_psycopg(
    type_: sa.types.TypeEngine[Any], wrapped: Any, values: list[Any], nulls: bool
) -> None:
    for size in range(1, len(values) + 1):
        given = [*values[:size], None] if nulls else values[:size]
        expected = by_psycopg([None if value is None else wrapped(value) for value in given])
        assert kind_of(sa.Column(type_)).array(given) == expected


@pytest.mark.parametrize(("type_", "wrapped", "values"), CASES, ids=NAMES)
def test_the_bytes_of_a_value_are_those_of_psycopg(
    type_: sa.types.TypeEngine[Any], wrapped: Any, values: list[Any]
) -> None:
    kind = kind_of(sa.Column(type_))
    assert kind.value(None) is None
    for value in values:
        given = wrapped(value)
        assert kind.value(value) == Transformer().get_dumper(given, PyFormat.BINARY).dump(given)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (sa.Integer(), 2**31),
        (sa.BigInteger(), -(2**63) - 1),
        (sa.SmallInteger(), 2**15),
        (sa.BigInteger(), "1"),
        (sa.String(9), "\ud800"),
    ],
)
def test_a_value_of_another_type_is_an_error(type_: sa.types.TypeEngine[Any], value: Any) -> None:
    with pytest.raises((struct.error, UnicodeError)):
        kind_of(sa.Column(type_)).array([value])
    with pytest.raises((struct.error, UnicodeError)):
        kind_of(sa.Column(type_)).value(value)
