# SPDX-License-Identifier: Apache-2.0
"""Why a store has not done what it was asked to do, beside ``errors.StoreUnavailable``."""

from __future__ import annotations

from tracker_worker.errors import StoreUnavailable


class Conflict(Exception):
    """Another writer has changed the rows on which this commit was decided. Nothing was written; the caller reads the ledgers
    and decides again."""


class AnotherHistory(Conflict):
    """The store has another history than the caller has seen, or an earlier state of the same one: see ``new_history``."""


class Unstorable(Exception):
    """The store cannot keep a value of this commit. Nothing was written, and the same commit would fail again."""


class StoreReplaced(Exception):
    """The file ``path`` of the database is ``deleted``, or another file has its name. What this store has committed since then
    is lost, so that nothing of it may be answered."""

    def __init__(self, path: str, deleted: bool) -> None:
        super().__init__(f"the database {path} was {'deleted' if deleted else 'replaced by another file'}")
        self.path = path
        self.deleted = deleted


class HostLocked(StoreUnavailable):
    """Another writer has held a row of a host for longer than this store waits. The store itself works."""


# A client rebuilds the error by the name of its class, and knows only the public one.
HostLocked.__name__ = StoreUnavailable.__name__
