# SPDX-License-Identifier: Apache-2.0
"""The page of behaviours and the marks ``behaviour`` of the tests name the same behaviours."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.doc_pages import DOC, ROOT, prose

PAGE = DOC / "contributor" / "behaviours.md"


def _behaviours() -> list[str]:
    """The behaviours of the page, in order: its headings of the third level."""
    return re.findall(r"^### (.+)$", prose(PAGE), re.MULTILINE)


def _marked(source: Path) -> Iterator[tuple[str, list[str]]]:
    """The functions and classes of a file that are marked ``behaviour``, each with the names in its mark.

    The file is parsed and not imported, because some tests import optional drivers.
    """
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.behaviour":
                    yield node.name, [ast.literal_eval(name) for name in mark.args]


MARKED = [marked for source in sorted((ROOT / "tests").rglob("*.py")) for marked in _marked(source)]
NAMED = {name for _, names in MARKED for name in names}


def test_every_behaviour_of_the_page_is_named_by_a_mark() -> None:
    behaviours = _behaviours()
    assert len(behaviours) > 30
    assert [name for name in behaviours if name not in NAMED] == []


def test_every_name_in_a_mark_is_on_the_page() -> None:
    assert NAMED - set(_behaviours()) == set()


def test_every_behaviour_is_on_the_page_once_in_kebab_case() -> None:
    behaviours = _behaviours()
    assert sorted(behaviours) == sorted(set(behaviours))
    assert [name for name in behaviours if not re.fullmatch(r"[a-z]+(-[a-z]+)*", name)] == []


def test_every_mark_is_on_a_test_and_names_at_least_one_behaviour() -> None:
    assert [marked for marked, names in MARKED if not names or not marked.lower().startswith("test")] == []
