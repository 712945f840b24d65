# SPDX-License-Identifier: Apache-2.0
"""What must hold of instances that move, at every commit and where nothing is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from tracker_worker.domain.allocation import BEGUN as CLAIM_BEGUN
from tracker_worker.domain.allocation import HOLD, INCOMING
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import BEGUN, EVACUATION, FINISHED


def of_one_host(host: HostLedger) -> Iterator[str]:
    """What a host is charged for instances that move is what its records say, each once."""
    recorded: dict[tuple[str, str], str] = {}
    for ledger in host:
        for move in ledger.moves.values():
            key = move.instance_uuid, HOLD if move.finished_at else INCOMING
            if move.open and (other := recorded.setdefault(key, move.id)) != move.id:
                yield f"{key[0]} is {key[1]} on {host.name} for the moves {other} and {move.id}"
    charged = [key for ledger in host for key in ledger.moving]
    for uuid, role in charged:
        if charged.count((uuid, role)) > 1:
            yield f"{uuid} is {role} on several nodes of {host.name}"
        if (uuid, role) not in recorded:
            yield f"{uuid} is {role} on {host.name}, for no move"
    for (uuid, role), move_id in recorded.items():
        if (uuid, role) not in charged:
            yield f"{host.name} is not charged for {uuid}, which is {role} for the move {move_id}"


def of_all(hosts: Iterable[HostLedger]) -> Iterator[str]:
    """One move of an instance begins at a time."""
    seen: dict[str, str] = {}
    for host in hosts:
        for ledger in host:
            for uuid, role in ledger.moving:
                if role == INCOMING and (other := seen.setdefault(uuid, host.name)) != host.name:
                    yield f"{uuid} is incoming on {other} and on {host.name}"


def overdue(host: HostLedger, now: int, seconds: float) -> Iterator[str]:
    """The moves to a host that should have expired so many seconds ago, and have not failed."""
    for ledger in host:
        for move in ledger.moves.values():
            passed = (now - move.expires_at) / 1_000_000
            held = ledger.moving.get((move.instance_uuid, INCOMING))
            begun = move.state == BEGUN and held is not None and held.claim_state == CLAIM_BEGUN
            if begun and move.arrives and passed > seconds:
                yield f"the move {move.id} to {host.name}/{ledger.name} should have expired {passed:.0f} s ago"


def unreleased(hosts: Sequence[HostLedger], served: Collection[str], now: int, seconds: float) -> Iterator[str]:
    """The evacuations from hosts that are served which these hosts have not noticed so many seconds after the hand-over."""
    by_name = {host.name: host for host in hosts}
    for host in hosts:
        for ledger in host:
            for move in ledger.moves.values():
                source = by_name.get(move.from_host or "")
                evacuated = move.kind == EVACUATION and move.state == FINISHED and move.arrives and not move.leaves
                if not evacuated or source is None or source.name not in served or not source.nodes:
                    continue
                if source.move(move.id) is None and (now - move.finished_at) / 1_000_000 > seconds:
                    yield f"the evacuation {move.id} from {source.name} is not noticed there"
