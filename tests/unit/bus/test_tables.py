# SPDX-License-Identifier: Apache-2.0
"""Encoded tables are walked by lengths, and never decoded."""

from __future__ import annotations

import string
import struct
import time

import pytest
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from tests.support.raw import deep_table, wide_table
from tracker_worker.bus.amqp import tables
from tracker_worker.bus.amqp.internals import decode_content, encode_properties
from tracker_worker.bus.amqp.tables import UnreadableTable, entries, without

NAMES = st.text(string.ascii_letters + "-", min_size=1, max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=8)


def encoded(table: object) -> bytes:
    return bytes(dumps("F", (table,)))[4:]


def names(table: bytes) -> list[bytes]:
    return [name for name, _, _ in entries(table)]


@given(TABLES)
def test_the_entries_are_those_of_the_table_and_cover_it(table: dict[str, object]) -> None:
    data = encoded(table)
    found = list(entries(data))
    assert [name.decode() for name, _, _ in found] == list(table)
    assert b"".join(data[begin:end] for _, begin, end in found) == data


@given(TABLES, st.sets(NAMES, max_size=4))
def test_a_table_without_some_entries_is_the_encoded_table_without_them(
    table: dict[str, object], left_out: set[str]
) -> None:
    left_out |= set(list(table)[::2])
    kept = {name: value for name, value in table.items() if name not in left_out}
    assert without(encoded(table), lambda name: name.decode() in left_out) == encoded(kept)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_refused(data: bytes) -> None:
    try:
        found = list(entries(data))
    except UnreadableTable:
        return
    assert b"".join(data[begin:end] for _, begin, end in found) == data


@given(TABLES, st.data())
def test_a_damaged_table_is_a_table_or_refused(table: dict[str, object], data: st.DataObject) -> None:
    damaged = bytearray(encoded(table))
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    try:
        found = list(entries(bytes(damaged)))
    except UnreadableTable:
        return
    assert sum(end - begin for _, begin, end in found) == len(damaged)


@pytest.mark.parametrize(
    "table", [deep_table(600), deep_table(20000), wide_table(39000)], ids=["deep", "deeper", "wide"]
)
def test_a_table_that_cannot_be_encoded_again_passes_as_it_is(table: bytes) -> None:
    assert without(table, lambda name: name == b"CC") == table
    assert without(table + encoded({"CC": ["q"]}) + table, lambda name: name == b"CC") == table * 2


def test_walking_takes_time_in_proportion_to_the_entries() -> None:
    table = encoded({f"k{number}": number for number in range(10_000)})
    began = time.process_time()
    assert len(names(table)) == 10_000
    assert time.process_time() - began < 1


@pytest.mark.parametrize(("kinds", "size"), [(b"V", 0), (b"tbB", 1), (b"suU", 2), (b"Iif", 4), (b"D", 5), (b"lLdT", 8)])
def test_each_type_has_its_size(kinds: bytes, size: int) -> None:
    for kind in kinds:
        entry = b"\x01n" + bytes([kind]) + b"\x00" * size
        assert names(entry + b"\x01mV") == [b"n", b"m"]
        for shorter in range(1, len(entry)):
            with pytest.raises(UnreadableTable):
                names(entry[:shorter])


@given(
    st.dictionaries(NAMES, st.text(max_size=50), max_size=5),
    st.sampled_from([{}, {"content_type": "a"}, {"priority": 3}]),
)
def test_texts_become_the_headers_of_the_properties(texts: dict[str, str], properties: dict[str, object]) -> None:
    table = tables.encode_texts(texts)
    content = decode_content(tables.in_properties(encode_properties(properties), table))
    assert content.header_table == table
    assert dict(content.headers) == {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
    assert dict(content.properties) == properties


def test_a_length_beyond_the_table_is_refused() -> None:
    with pytest.raises(UnreadableTable):
        names(b"\x01nS" + struct.pack(">I", 2**32 - 1) + b"x")
