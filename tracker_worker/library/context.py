# SPDX-License-Identifier: Apache-2.0
"""The request context of a tracker's callers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Context = Any
"""A request context: a mapping with project_id and user_id, an object with ``to_dict()``, or None."""


def facts_of(context: Context) -> Mapping[str, Any]:
    """What the context says."""
    if context is None:
        return {}
    if isinstance(context, Mapping):
        return context
    facts: Mapping[str, Any] = context.to_dict()
    return facts
