# SPDX-License-Identifier: Apache-2.0
"""The arguments of requests -> commands and queries. Every function raises InvalidInput, which names the argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker_worker.domain import commands
from tracker_worker.domain.adoption import read_adoption
from tracker_worker.domain.allocation import KEEP, RELEASE
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import owned, owner_of, read_changes, read_instance, read_node
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.queries import GetInstances, GetNotifications, ListAllocations, ListClaims, WouldFit
from tracker_worker.domain.states import VM_STATES
from tracker_worker.domain.values import (
    read_amount,
    read_choice,
    read_id,
    read_name,
    read_optional_text,
    read_text,
    read_timeout,
)
from tracker_worker.errors import InvalidInput

Arguments = Mapping[str, Any]
Context = Mapping[str, Any]

_MOST_CLAIMS = 500
_MOST_ALLOCATIONS = 1000
_DEFAULT_ALLOCATIONS = 500
_MOST_INSTANCES = 500
_DEFAULT_INSTANCES = 500
_MOST_NOTIFICATIONS = 500
_DEFAULT_NOTIFICATIONS = 100
_ROLES = ("instance", "incoming", "hold")
_CLAIM_KEYS = ("instance", "limits", "claim_id")


def begin(args: Arguments, context: Context, policy: Policy) -> commands.BeginClaim:
    """The arguments of a claim. The owner is the instance's, else the context's."""
    instance = read_instance(args["instance"], policy.max_field_bytes)
    claim_id = args.get("claim_id")
    return commands.BeginClaim(
        instance=owned(instance, context, required=policy.owner_required),
        node=read_node(args["instance"]),
        limits=read_limits(args.get("limits")),
        timeout=_timeout(args, policy),
        capacity_limits=policy.capacity_limits,
        claim_id=None if claim_id is None else read_id("claim_id", claim_id),
        on_expiry=read_choice("on_expiry", args.get("on_expiry"), (KEEP, RELEASE)),
        stale_after=policy.stale_after,
        remembers_deletions=policy.deletion_memory,
    )


def begin_all(args: Arguments, context: Context, policy: Policy) -> commands.BeginClaims:
    """The arguments of a group of claims. A field of an entry is named with its place: ``claims.1.instance.vcpus``."""
    entries = args["claims"]
    if not isinstance(entries, list | tuple) or not 1 <= len(entries) <= _MOST_CLAIMS:
        raise InvalidInput(field="claims", reason=f"must be a list of 1 to {_MOST_CLAIMS} claims")
    shared = {"timeout": args.get("timeout"), "on_expiry": args.get("on_expiry")}
    _timeout(shared, policy)  # what all entries share is named by itself
    read_choice("on_expiry", shared["on_expiry"], (KEEP, RELEASE))
    return commands.BeginClaims(
        claims=tuple(_entry(index, entry, shared, context, policy) for index, entry in enumerate(entries))
    )


def _entry(index: int, entry: Any, shared: Arguments, context: Context, policy: Policy) -> commands.BeginClaim:
    path = f"claims.{index}"
    if not isinstance(entry, Mapping):
        raise InvalidInput(field=path, reason="must be an object")
    if "instance" not in entry:
        raise InvalidInput(field=f"{path}.instance", reason="is missing")
    for name in entry:
        if name not in _CLAIM_KEYS:
            raise InvalidInput(field=f"{path}.{name}", reason=f"is no key of a claim: {', '.join(_CLAIM_KEYS)}")
    try:
        return begin({**entry, **shared}, context, policy)
    except InvalidInput as error:
        field = error.kwargs["field"]
        named = field if field.startswith("context.") else f"{path}.{field}"
        raise InvalidInput(field=named, reason=error.kwargs["reason"]) from None


def would_fit(args: Arguments, context: Context, policy: Policy) -> WouldFit:
    """The arguments of a claim that is only asked about."""
    return WouldFit(begin=begin(args, context, policy))


def adopt(args: Arguments, context: Context, policy: Policy) -> commands.AdoptInstances:
    return read_adoption(args["instances"], context, policy)


def renew(args: Arguments, _context: Context, policy: Policy) -> commands.RenewClaim:
    return commands.RenewClaim(claim_id=read_id("claim_id", args["claim_id"]), timeout=_timeout(args, policy))


def update(args: Arguments, _context: Context, policy: Policy) -> commands.UpdateUsage:
    changes = read_changes(args["instance"], policy.max_field_bytes)
    return commands.UpdateUsage(
        uuid=changes["uuid"],
        changes=changes,
        node=read_node(args["instance"]),
        notes_deletions=policy.deletion_memory > 0,
    )


def release(args: Arguments, context: Context, _policy: Policy) -> commands.ReleaseAllocation:
    """An operator's release, by the user of the context."""
    reason = read_name("reason", args["reason"])
    if not reason.strip():
        raise InvalidInput(field="reason", reason="must not be empty")
    return commands.ReleaseAllocation(
        uuid=read_id("instance_uuid", args["instance_uuid"]),
        reason=reason,
        released_by=owner_of(None, None, context)["user_id"] or "",
    )


def compare(args: Arguments, *_: Any) -> commands.CompareInstances:
    uuids = args["uuids"]
    if not isinstance(uuids, list | tuple):
        raise InvalidInput(field="uuids", reason="must be a list of uuids")
    read = frozenset(read_id(f"uuids.{index}", uuid) for index, uuid in enumerate(uuids))
    return commands.CompareInstances(node=node(args), uuids=read)


def list_claims(args: Arguments, *_: Any) -> ListClaims:
    after = args.get("after")
    return ListClaims(
        node=node(args),
        limit=None if args.get("limit") is None else _limit(args["limit"]),
        after=None if after is None else read_id("after", after),
    )


def list_allocations(args: Arguments, *_: Any) -> ListAllocations:
    limit = args.get("limit")
    return ListAllocations(
        node=node(args),
        project_id=read_optional_text("project_id", args.get("project_id")),
        role=read_choice("role", args.get("role"), _ROLES),
        state=read_choice("state", args.get("state"), sorted(VM_STATES)),
        older_than=read_timeout("older_than", args.get("older_than")),
        limit=_DEFAULT_ALLOCATIONS if limit is None else _limit(limit, _MOST_ALLOCATIONS),
        after=None if args.get("after") is None else _after(args["after"]),
    )


def get_instances(args: Arguments, *_: Any) -> GetInstances:
    after, limit = args.get("after"), args.get("limit")
    return GetInstances(
        node=read_name("node", args["node"]),
        after=None if after is None else read_id("after", after),
        limit=_DEFAULT_INSTANCES if limit is None else _limit(limit, _MOST_INSTANCES),
    )


def get_notifications(args: Arguments, *_: Any) -> GetNotifications:
    limit = args.get("limit")
    return GetNotifications(
        node=read_name("node", args["node"]),
        after=read_amount("after_sequence", 0 if args.get("after_sequence") is None else args["after_sequence"]),
        limit=_DEFAULT_NOTIFICATIONS if limit is None else _limit(limit, _MOST_NOTIFICATIONS),
    )


def node(args: Arguments) -> str | None:
    return None if args.get("node") is None else read_name("node", args["node"])


def _timeout(args: Arguments, policy: Policy) -> int:
    return read_timeout("timeout", args.get("timeout")) or policy.claim_timeout


def _limit(value: Any, most: int | None = None) -> int:
    limit = read_amount("limit", value)
    if limit < 1 or (most is not None and limit > most):
        raise InvalidInput(field="limit", reason="must be at least 1" if most is None else f"must be 1 to {most}")
    return limit


def _after(value: Any) -> tuple[str, str]:
    """Where a page ended: the instance's uuid, a slash, and the id of its allocation, which has no slash."""
    uuid, _, allocation_id = value.rpartition("/") if isinstance(value, str) else ("", "", "")
    if not uuid or not allocation_id:
        raise InvalidInput(field="after", reason="must be the 'next' of an earlier answer")
    return read_text("after", uuid), read_text("after", allocation_id)
