# SPDX-License-Identifier: Apache-2.0
"""The page of log lines is made from the code."""

from __future__ import annotations

from tests.support.log_lines import PAGE, page


def test_the_page_has_every_line_that_the_package_logs() -> None:
    assert PAGE.read_text("utf-8") == page(), (
        "write it again: python -m tests.support.log_lines > doc/admin/log-lines.md"
    )
