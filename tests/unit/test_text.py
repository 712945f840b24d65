# SPDX-License-Identifier: Apache-2.0
"""Texts from outside become printable."""

from __future__ import annotations

import json

import pytest

from tracker_worker.text import printable


@pytest.mark.parametrize("text", ["", "compute-1", "größe 日本 😀", "a b", 'quote " backslash \\'])
def test_a_text_that_can_be_printed_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\t", "a\\nb\\r\\t"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\0b\x7f\x85", "a\\x00b\\x7f\\x85"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("zero\u200bwidth\u2028", "zero\\u200bwidth\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("char", ["x", "\n", "\U000e0001", "é", "\ud800"])
@pytest.mark.parametrize("limit", [3, 10, 255, 1000])
def test_a_text_is_cut_to_the_limit(char: str, limit: int) -> None:
    shown = printable(char * 1_000_000, limit)

    assert len(shown) == limit
    assert shown.endswith("...")
    assert shown.isprintable()
    json.dumps(shown).encode()
    assert printable("x" * limit, limit) == "x" * limit
