# SPDX-License-Identifier: Apache-2.0
"""The decision on a command: which events it causes in a host's ledgers. This module reads ledgers and changes none.

A refusal is a value: ``Decision.error``. The caller makes decisions one after the other, each on the ledgers to which the
events of the decision before have been applied; because of this order the capacity rule holds without locks.
"""

from __future__ import annotations

from msgspec.structs import replace

from tracker_worker.domain import adoption, claims, closing, commands, moves, nodes, usage
from tracker_worker.domain.claims import NewId
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.host import HostLedger
from tracker_worker.errors import TrackerError


def decide(host: HostLedger, command: commands.Command, now: int, new_id: NewId) -> Decision:
    """The decision on ``command`` at ``now`` (microseconds). Changes no ledger. A refusal is returned, never raised."""
    try:
        return _decide(host, command, now, new_id)
    except TrackerError as refusal:
        return Decision(error=refusal)


def _decide(host: HostLedger, command: commands.Command, now: int, new_id: NewId) -> Decision:
    match command:
        case commands.BeginClaim():
            return claims.begin(host, command, now, new_id)
        case commands.BeginClaims():
            return claims.begin_all(host, command, now, new_id)
        case commands.FinishClaim(claim_id=claim_id):
            return claims.finish(host, claim_id, now)
        case commands.AbortClaim(claim_id=claim_id):
            return claims.abort(host, claim_id, now)
        case commands.RenewClaim():
            return claims.renew(host, command, now)
        case commands.BeginMove():
            return moves.begin(host, command, now, new_id)
        case commands.StepMove():
            return moves.step(host, command, now)
        case commands.ForgetMoves():
            return moves.forget(host, command, now)
        case commands.ExpireClaims(node=node, release=release):
            expired = claims.expire(host.any_node(node), release, now)
            return replace(expired, events=(*expired.events, *moves.expire(host, command, now)))
        case commands.ForgetDeletions():
            return usage.forget_deletions(host, command, now)
        case commands.UpdateUsage():
            return usage.update(host, command, now)
        case commands.AdoptInstances():
            return adoption.adopt(host, command, now, new_id)
        case commands.ReleaseAllocation():
            return usage.release(host, command, now)
        case commands.CompareInstances():
            return usage.compare(host, command, now)
        case commands.ReportNode(node=node):
            return nodes.report(host.any_node(node), command, now)
        case commands.ReportList():
            return nodes.listed(host, command, now)
        case commands.NoteElsewhere(node=node):
            return nodes.elsewhere(host.any_node(node), command, now)
        case commands.DrainNode(node=node):
            return nodes.drain(host.node(node), command, now)
        case commands.UndrainNode(node=node):
            return nodes.undrain(host.any_node(node), now)
        case commands.RetireNode(node=node):
            return nodes.retire(host.node(node), command, now)
        case commands.BeginPeriod(node=node):
            return closing.begin(host.any_node(node), command, now)
        case commands.TellUsage(node=node):
            return closing.tell(host.any_node(node), command, now)
        case commands.ForgetUsage(node=node):
            return closing.forget(host.any_node(node), command, now)
