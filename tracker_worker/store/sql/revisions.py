# SPDX-License-Identifier: Apache-2.0
"""The revision that this release needs, read from the migrations without alembic, whose import takes long."""

from __future__ import annotations

import ast
from pathlib import Path

_VERSIONS = Path(__file__).parent / "migrations" / "versions"


def newest_revision() -> str:
    """The revision that no other one follows; ``migration.head`` returns the same."""
    found = [_constants(path) for path in sorted(_VERSIONS.glob("*.py"))]
    followed = {constants["down_revision"] for constants in found}
    (newest,) = (constants["revision"] for constants in found if constants["revision"] not in followed)
    assert newest is not None
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
