# SPDX-License-Identifier: Apache-2.0
"""The sessions of doc/user/library.md give the output that the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.doc_pages import DOC, wrong_sessions

PAGE = DOC / "user" / "library.md"


def test_the_sessions_of_the_library_page_give_the_output_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # one of the sessions creates a database
    assert wrong_sessions(PAGE, {}, least=6) == ""
