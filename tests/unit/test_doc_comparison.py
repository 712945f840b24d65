# SPDX-License-Identifier: Apache-2.0
"""The table of README.md that compares the worker with others: each row names the test that holds it."""

from __future__ import annotations

import re

import pytest

from tests.support.doc_pages import ROOT, section

ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in section(ROOT / "README.md", "Beside others").splitlines()
    if line.startswith("|")
]
HEAD, _, *BODY = ROWS


def test_the_table_is_short_and_complete() -> None:
    assert HEAD[-1] == "test"
    assert 0 < len(BODY) <= 10
    assert all(len(cells) == len(HEAD) and all(cells) for cells in BODY)


@pytest.mark.parametrize("cells", BODY, ids=[cells[0] for cells in BODY])
def test_the_test_of_each_row_exists(cells: list[str]) -> None:
    named = re.fullmatch(r"`(tests/[\w/]+\.py)`", cells[-1])
    assert named is not None, cells[-1]
    assert "def test_" in (ROOT / named[1]).read_text(encoding="utf-8")
