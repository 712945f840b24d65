# SPDX-License-Identifier: Apache-2.0
"""Named points at which a test may stop the process, to show that stopping there costs nothing.

In production no hook is installed and a point is one comparison. The points, in the order in which a call passes them:
``before_commit``, ``after_commit``, ``after_reply`` (confirmed; its request is not yet acknowledged), ``after_ack``,
``after_publish`` (a notification is confirmed), ``before_cursor`` (the relay is about to write its cursors).
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = ("before_commit", "after_commit", "after_reply", "after_ack", "after_publish", "before_cursor")

hook: Callable[[str], None] | None = None
"""Called with the name of every point that is reached, on the thread that reaches it. Code that passes a point reads it."""


def install(new: Callable[[str], None] | None) -> None:
    """Have ``new`` called at every point, or nothing."""
    global hook
    hook = new
