# SPDX-License-Identifier: Apache-2.0
"""The consumer's half of billing: books of notifications, which say what each project was charged, and what proves it.

This package stands alone: it needs the standard library and nothing else, so that a billing system may also copy it.

- ``Books``: hears notifications in any order, says what is missing and gets it, and adds up what was charged.
- ``SqliteState``: where books are kept so that they outlive the process; a dict does for as long as it lives.
"""

from __future__ import annotations

from tracker_worker.billing.bills import Difference, Usage
from tracker_worker.billing.books import Books
from tracker_worker.billing.state import SqliteState

__all__ = ["Books", "Difference", "SqliteState", "Usage"]
