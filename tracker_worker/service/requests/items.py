# SPDX-License-Identifier: Apache-2.0
"""What the loop decides: requests from outside, and chores of the worker's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tracker_worker.domain import commands
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.service.requests.pending import PendingRequest


@dataclass(slots=True, kw_only=True, eq=False)
class Chore:
    """Commands of the worker's own for one host.

    ``done`` is called on the engine's thread after their commit, with the ledgers as they are then; ``failed`` instead when the
    commands cannot be decided.
    """

    host: str
    commands: Sequence[commands.Command]
    done: Callable[[HostLedger], None] | None = None
    failed: Callable[[Exception], None] | None = None


Item = PendingRequest | Chore


def hosts_of(items: Iterable[Item]) -> set[str]:
    """The names of the hosts that these items are about."""
    names: set[str] = set()
    for item in items:
        if isinstance(item, Chore):
            names.add(item.host)
        elif item.operation is not None:
            names.update(item.operation.hosts)
    return names
