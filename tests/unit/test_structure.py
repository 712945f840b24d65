# SPDX-License-Identifier: Apache-2.0
"""Limits for the size of files and of the engine, which keep the code readable."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import tracker_worker

PACKAGE = Path(tracker_worker.__file__).parent
FILES = [path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts]


def lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def test_no_file_is_longer_than_400_lines_and_the_median_is_under_120() -> None:
    assert [str(path.relative_to(PACKAGE)) for path in FILES if lines(path) > 400] == []
    assert statistics.median(lines(path) for path in FILES) < 120


def test_the_engine_has_fewer_than_300_lines_and_at_most_15_fields() -> None:
    path = PACKAGE / "service/loop/engine.py"
    assert lines(path) < 300
    tree = ast.parse(path.read_text("utf-8"))
    targets = [
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    fields = {
        target.attr
        for target in targets
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    }
    assert len(fields) <= 15
