# SPDX-License-Identifier: Apache-2.0
"""The revisions that this release knows, read from the migrations without alembic, whose import takes long."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_VERSIONS = Path(__file__).parent / "migrations" / "versions"


@cache
def known_revisions() -> Mapping[str, str | None]:
    """Each revision and the one that it follows; None: the first one follows none."""
    found = [_constants(path) for path in sorted(_VERSIONS.glob("*.py"))]
    return {str(constants["revision"]): constants["down_revision"] for constants in found}


def newest_revision() -> str:
    """The revision that this release needs: no other one follows it."""
    (newest,) = known_revisions().keys() - known_revisions().values()
    return newest


def _constants(path: Path) -> dict[str, str | None]:
    """``revision`` and ``down_revision`` of a migration."""
    return {
        target.id: ast.literal_eval(statement.value)
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and target.id in ("revision", "down_revision")
    }
