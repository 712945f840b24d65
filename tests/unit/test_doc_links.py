# SPDX-License-Identifier: Apache-2.0
"""The links and names in the pages lead to existing files, headings and tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.doc_pages import DOC, ROOT, anchors, links, pages


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=_id)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT.resolve()), f"{link} leaves the repository"
        assert target.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


def test_every_page_is_within_reach_of_the_readme() -> None:
    reached = {ROOT / "README.md"}
    waiting = list(reached)
    while waiting:
        page = waiting.pop()
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_file() and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert set(DOC.rglob("*.md")) <= reached


def test_every_test_file_that_the_fault_table_names_exists() -> None:
    files = {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py")}
    names = {path.name for path in files}
    named = set(re.findall(r"`([\w/]+\.py)`", (DOC / "admin" / "faults.md").read_text(encoding="utf-8")))
    assert len(named) > 5
    assert [name for name in sorted(named) if name not in names and Path(name) not in files] == []
