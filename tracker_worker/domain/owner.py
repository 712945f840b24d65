# SPDX-License-Identifier: Apache-2.0
"""Who an instance is billed to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker_worker.domain.values import read_optional_text


def owner_of(project_id: str | None, user_id: str | None, context: Mapping[str, Any]) -> dict[str, str | None]:
    """What the instance says itself, else what the context of the request says (oslo.context 6.5 puts the user's id under
    'user'). Raises InvalidInput: the context says something that is no text."""
    project = project_id or context.get("project_id") or context.get("tenant") or context.get("project")
    user = user_id or context.get("user_id") or context.get("user")
    return {
        "project_id": read_optional_text("context.project_id", project),
        "user_id": read_optional_text("context.user_id", user),
    }
