# SPDX-License-Identifier: Apache-2.0
"""Readers of the Markdown pages: their fenced blocks, headings and links."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOC = ROOT / "doc"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """The text between two fences, its language, and the number of the line before the text."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every Markdown page of the project."""
    return sorted([*ROOT.glob("*.md"), *DOC.rglob("*.md")])


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's blocks in these languages, or all its blocks, in order."""
    text = page.read_text(encoding="utf-8")
    found = [Block(match[1], match[2], text.count("\n", 0, match.start())) for match in _FENCE.finditer(text)]
    return [block for block in found if not languages or block.language in languages]


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def section(page: Path, heading: str) -> str:
    """The text from a heading to the next heading of its level or above. Raises AssertionError: there is no such heading."""
    text = page.read_text(encoding="utf-8")
    begin = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert begin is not None, f"{page.name} has no section {heading!r}"
    end = re.compile(rf"^#{{1,{len(begin[1])}}} ", re.MULTILINE).search(text, begin.end())
    return text[begin.start() : end.start() if end else len(text)]


def headings(page: Path) -> list[str]:
    return [match[1] for match in _HEADING.finditer(prose(page))]


def anchors(page: Path) -> set[str]:
    """The valid anchors of the page: its headings in lower case, without punctuation, blanks as hyphens."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


def links(page: Path) -> Iterator[str]:
    """The targets of the page's links."""
    for match in _LINK.finditer(prose(page)):
        yield match[1]


def wrong_sessions(page: Path, names: dict[str, object], *, least: int) -> str:
    """What doctest says of the page's Python sessions, of which there are at least so many: '' if all give the output that the
    page shows. ``names`` are known in the first one; what a session defines is known in those behind it."""
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    sessions = blocks(page, "pycon")
    assert len(sessions) >= least, page
    for session in sessions:
        test = doctest.DocTestParser().get_doctest(session.text, names, page.name, str(page), session.line + 1)
        runner.run(test, out=said.append, clear_globs=False)
        names = test.globs
    return "".join(said) if runner.summarize(verbose=False).failed else ""
