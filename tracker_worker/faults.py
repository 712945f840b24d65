# SPDX-License-Identifier: Apache-2.0
"""Named points at which a test may stop the process, to show that stopping there costs nothing.

In production nothing is installed and a point is one comparison. The points, in the order in which a call passes them:
``before_commit``, ``after_commit``, ``after_reply`` (confirmed, its request not yet acknowledged), ``after_ack``,
``after_publish`` (a notification is confirmed), ``before_cursor`` (the relay is about to note that).
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = ("before_commit", "after_commit", "after_reply", "after_ack", "after_publish", "before_cursor")

_hook: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Have ``hook`` called with the name of every point that is reached, on the thread that reaches it."""
    global _hook
    _hook = hook


def reach(point: str) -> None:
    """The process is at ``point`` now."""
    if _hook is not None:
        _hook(point)
