# SPDX-License-Identifier: Apache-2.0
"""The layout of tables: nothing but prose is folded, and no line is wider than the terminal unless one word is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_worker.cli.table import Column, Table, column, field_lines, figure, prose, text_width, wrap

COLUMNS = (column("Host"), column("Node", 1), figure("VCPU", 2), column("Since", 4), prose("Reason", 3))
ROW = ("h1", "node-1", "2/32", "2026-01-15T12:00:00Z", "the disk is replaced today")


def lines_of(
    *pages: list[tuple[str, ...]], width: int | None, everything: bool = False, columns: tuple[Column, ...] = COLUMNS
) -> list[str]:
    table = Table(columns, width=width, everything=everything)
    return [line for page in pages for line in table.page(page)]


def test_without_a_terminal_every_row_is_one_line() -> None:
    long = ("h" * 255, *ROW[1:])
    assert [line.split()[0] for line in lines_of([ROW, long], width=None)[2:]] == ["h1", "h" * 255]


def test_a_table_that_fits_has_titles_a_rule_and_figures_at_the_right() -> None:
    assert lines_of([ROW, ("h2", "node-12", "12/32", "-", "")], width=80) == [
        "Host  Node      VCPU  Since                 Reason",
        "-" * 70,
        "h1    node-1    2/32  2026-01-15T12:00:00Z  the disk is replaced today",
        "h2    node-12  12/32  -",
    ]


def test_prose_is_wrapped_before_a_column_is_left_out() -> None:
    assert lines_of([ROW], width=68) == [
        "Host  Node    VCPU  Since                 Reason",
        "-" * 68,
        "h1    node-1  2/32  2026-01-15T12:00:00Z  the disk is replaced today",
    ]
    assert lines_of([ROW], width=67)[2:] == [
        "h1    node-1  2/32  2026-01-15T12:00:00Z  the disk is replaced",
        " " * 42 + "today",
    ]


def test_columns_are_left_out_the_least_important_first() -> None:
    def titles(width: int) -> list[str]:
        return lines_of([ROW], width=width)[0].split()

    assert titles(50) == ["Host", "Node", "VCPU", "Reason"]
    assert titles(30) == ["Host", "Node", "VCPU"]
    assert titles(15) == ["Host", "Node"]
    assert titles(5) == ["Host"]


def test_a_column_without_a_value_is_left_out_first() -> None:
    assert lines_of([("h1", "node-1", "-", "now", "")], width=20)[0].split() == ["Host", "Node", "Since"]


def test_the_columns_that_were_left_out_are_known() -> None:
    table = Table(COLUMNS, width=30)
    assert len(list(table.page([ROW]))) == 3
    assert table.hidden == ["Since", "Reason"]


@pytest.mark.parametrize(("width", "everything"), [(20, False), (60, True)])
def test_a_row_that_does_not_fit_is_a_block_with_every_column(width: int, everything: bool) -> None:
    rows = [("a-host-with-a-long-name", *ROW[1:]), ROW]
    lines = lines_of(rows, width=width, everything=everything)
    assert lines.count("") == 1
    for cell in ("a-host-with-a-long-name", "2/32", "2026-01-15T12:00:00Z"):
        assert any(cell in line for line in lines)


def test_everything_is_a_table_where_it_fits() -> None:
    assert lines_of([ROW], width=70, everything=True) == lines_of([ROW], width=70)


def test_a_later_page_may_be_wider_and_has_its_own_titles() -> None:
    wide = ("h1", "a-node-with-a-name-of-31-letters", *ROW[2:])
    lines = lines_of([ROW], [ROW], [wide], width=70)
    assert [number for number, line in enumerate(lines) if line.startswith("Host")] == [0, 4]
    assert "Since" not in lines[4]


def test_wide_characters_take_two_columns() -> None:
    assert lines_of([("主機", "n", "1", "-", "x"), ROW], width=80)[2].startswith("主機  n")
    assert text_width("主機") == 4


def test_a_field_that_does_not_fit_beside_its_label_begins_below_it() -> None:
    fields = [("host", "h" * 40, False), ("reason", "one two three four five six", True), ("n", "1", False)]
    assert list(field_lines(fields, 30)) == [
        "host",
        "h" * 40,
        "reason  one two three four",
        "        five six",
        "n       1",
    ]


def test_a_name_with_blanks_is_not_folded() -> None:
    assert "rack 1 node 7" in "\n".join(lines_of([("rack 1 node 7", *ROW[1:])], width=10))


@given(st.lists(st.text("ab ", max_size=12), min_size=1, max_size=5).map(" ".join), st.integers(1, 20))
def test_wrapped_lines_hold_all_words_in_order(text: str, width: int) -> None:
    lines = list(wrap(text, width))
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or " " not in line.strip() for line in lines)


_WORD = st.text("abcdef-0123456789/主", min_size=1, max_size=40)


@given(
    st.lists(st.tuples(_WORD, _WORD, _WORD, _WORD, st.lists(_WORD, max_size=4).map(" ".join)), min_size=1, max_size=4),
    st.sampled_from([60, 80, 120]),
    st.booleans(),
)
def test_no_line_is_wider_than_the_terminal_and_no_name_is_folded(
    rows: list[tuple[str, ...]], width: int, everything: bool
) -> None:
    table = Table(COLUMNS, width=width, everything=everything)
    lines = list(table.page(rows))
    assert all(text_width(line) <= width for line in lines)
    text = "\n".join(lines)
    for row in rows:
        for cell, title in zip(row[:4], [each.title for each in COLUMNS], strict=False):
            assert title in table.hidden or cell in text
    assert not (everything and table.hidden)
