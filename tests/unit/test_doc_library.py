# SPDX-License-Identifier: Apache-2.0
"""The sessions of doc/user/library.md give the output that the page shows."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from tests.support.doc_pages import DOC, blocks

PAGE = DOC / "user" / "library.md"


def test_the_sessions_of_the_library_page_give_the_output_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # one of the sessions creates a database
    names: dict[str, object] = {}
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    sessions = blocks(PAGE, "pycon")
    for session in sessions:
        test = doctest.DocTestParser().get_doctest(session.text, names, PAGE.name, str(PAGE), session.line + 1)
        runner.run(test, out=said.append, clear_globs=False)
        names = test.globs

    assert len(sessions) > 5
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
