# SPDX-License-Identifier: Apache-2.0
"""The RPC methods as calls, which wait for the answer. ``TrackerAPI`` has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from tracker_worker.client.arguments import claim_arguments, given, group_arguments
from tracker_worker.client.transport import Transport
from tracker_worker.client.types import (
    Adoption,
    Allocation,
    Allocations,
    Claim,
    Comparison,
    Context,
    Fit,
    GroupEntry,
    InstanceLike,
    Instances,
    LimitsLike,
    Node,
    Notifications,
    Update,
    Usage,
)


class Calls:
    """One method per RPC method. Each takes the request context (a mapping) and then the host whose worker is asked."""

    _transport: Transport

    def _call(self, context: Context, host: str, method: str, **args: Any) -> Any:
        return self._transport.call(context, host, method, args)

    # --- claims ------------------------------------------------------------------------------------------------------

    def begin_resource_claim(
        self,
        context: Context,
        host: str,
        instance: InstanceLike,
        limits: LimitsLike | None = None,
        timeout: float | None = None,
        *,
        claim_id: str | None = None,
        on_expiry: Literal["keep", "release"] | None = None,
    ) -> Claim | None:
        """Charge the instance to its node within ``limits`` (ceilings on total usage). The claim expires after ``timeout``
        seconds; None: the worker's default. The result is None where the node is unsupported: nothing is charged there.

        ``claim_id`` is a new id for the claim, so that the caller knows it also without an answer; None: the worker makes one.
        ``on_expiry`` says what happens to the allocation when the claim expires; None: what the worker's options say.

        Raises ComputeResourcesUnavailable with every shortfall, ClaimConflict, InvalidInput, NodeNotFound, NodeUnavailable,
        NodeDraining. (The library's method of this name returns None for a claim that does not fit, as its model of 2012 did.)
        """
        args = claim_arguments(instance, limits, timeout, claim_id=claim_id, on_expiry=on_expiry)
        claim: Claim | None = self._call(context, host, "begin_resource_claim", **args)
        return claim

    def begin_resource_claims(
        self,
        context: Context,
        host: str,
        claims: Iterable[GroupEntry],
        timeout: float | None = None,
        on_expiry: Literal["keep", "release"] | None = None,
    ) -> list[Claim | None]:
        """Begin 1 to 500 claims on one host, all or none, in order; each sees those before it. An entry has an ``instance``,
        and may have ``limits`` and a ``claim_id``. Returns the claims in order.

        Raises what ``begin_resource_claim`` raises; ComputeResourcesUnavailable has the shortfalls of all, each with
        instance_uuid and node."""
        args = group_arguments(claims, timeout, on_expiry)
        begun: list[Claim | None] = self._call(context, host, "begin_resource_claims", **args)
        return begun

    def would_fit(
        self, context: Context, host: str, instance: InstanceLike, limits: LimitsLike | None = None
    ) -> Fit | None:
        """Return whether ``begin_resource_claim`` would grant this claim now; nothing changes. The result is None where the
        node is unsupported. Raises what ``begin_resource_claim`` raises, but for ComputeResourcesUnavailable."""
        args = given(instance=dict(instance), limits=None if limits is None else dict(limits))
        fit: Fit | None = self._call(context, host, "would_fit", **args)
        return fit

    def finish_resource_claim(self, context: Context, host: str, claim_id: str) -> Claim | None:
        """End a claim after a build that succeeded; the instance stays charged. Returns None if there is no such claim."""
        claim: Claim | None = self._call(context, host, "finish_resource_claim", claim_id=claim_id)
        return claim

    def abort_resource_claim(self, context: Context, host: str, claim_id: str) -> Claim | None:
        """End a claim after a build that failed, and release what it was charged. Returns None if there is no such claim."""
        claim: Claim | None = self._call(context, host, "abort_resource_claim", claim_id=claim_id)
        return claim

    def renew_resource_claim(
        self, context: Context, host: str, claim_id: str, timeout: float | None = None
    ) -> Claim | None:
        """Let a claim expire ``timeout`` seconds from now, but not earlier than it would have; None: the worker's default.
        Returns None if the claim has ended or there is none."""
        args = given(claim_id=claim_id, timeout=timeout)
        claim: Claim | None = self._call(context, host, "renew_resource_claim", **args)
        return claim

    def list_claims(
        self,
        context: Context,
        host: str,
        node: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> list[Claim]:
        """Return the claims that have not ended, by claim_id: at most ``limit`` of those after the claim_id ``after``. Raises
        NodeNotFound, AnswerTooLarge."""
        claims: list[Claim] = self._call(context, host, "list_claims", node=node, **given(limit=limit, after=after))
        return claims

    # --- allocations -------------------------------------------------------------------------------------------------

    def update_usage(self, context: Context, host: str, instance: InstanceLike) -> Update:
        """Report new states, sizes or facts of an instance; fields that are not in ``instance`` stay as they are. ``vm_state``
        deleted releases the instance. Raises InstanceElsewhere: ``node`` names another node than the one that is charged."""
        update: Update = self._call(context, host, "update_usage", instance=dict(instance))
        return update

    def list_allocations(
        self,
        context: Context,
        host: str,
        node: str | None = None,
        project_id: str | None = None,
        role: str | None = None,
        state: str | None = None,
        older_than: float | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Allocations:
        """Return a page of what the host is charged for, in the order of the instances' uuids. ``state`` is a vm_state,
        ``older_than`` seconds since the claim began; None stands for all. ``limit`` is 1 to 1000 (500); ``after`` is ``next``
        of the page before, which is None at the end."""
        args = given(
            node=node,
            project_id=project_id,
            role=role,
            state=state,
            older_than=older_than,
            limit=limit,
            after=after,
        )
        page: Allocations = self._call(context, host, "list_allocations", **args)
        return page

    def get_allocation(self, context: Context, host: str, instance_uuid: str) -> Allocation | None:
        """Return what the host is charged for the instance, or None."""
        allocation: Allocation | None = self._call(context, host, "get_allocation", instance_uuid=instance_uuid)
        return allocation

    def release_allocation(self, context: Context, host: str, instance_uuid: str, reason: str) -> Allocation | None:
        """Release what the host is charged for the instance, as an operator does for ``reason``, which is not empty. Returns
        what was released, or None if the instance was not charged."""
        args = {"instance_uuid": instance_uuid, "reason": reason}
        released: Allocation | None = self._call(context, host, "release_allocation", **args)
        return released

    def adopt(self, context: Context, host: str, instances: Iterable[InstanceLike]) -> Adoption:
        """Charge at most 1000 instances that run already and were never claimed, whatever the limits. Each is adopted or
        refused by itself; one that is charged already, exactly so, changes nothing. Raises InvalidInput: they are too many, or
        one of them has no uuid."""
        adoption: Adoption = self._call(context, host, "adopt", instances=[dict(instance) for instance in instances])
        return adoption

    def report_instances(self, context: Context, host: str, node: str | None, uuids: Iterable[str]) -> Comparison:
        """Compare what a node is charged for with the ``uuids`` of the instances that really run there; ``node``
        may be None if the host has only one. A difference is published as tracker.node.drift, and nothing is repaired."""
        args = given(uuids=list(uuids), node=node)
        comparison: Comparison = self._call(context, host, "report_instances", **args)
        return comparison

    def get_usage(self, context: Context, host: str, project_id: str | None = None) -> Usage:
        """Return what each project is charged on the host, including claims that are begun."""
        usage: Usage = self._call(context, host, "get_usage", project_id=project_id)
        return usage

    # --- nodes -------------------------------------------------------------------------------------------------------

    def update_available_resource(self, context: Context, host: str, node: str | None = None) -> list[Node]:
        """Audit one node or all nodes: read the inventories and expire claims that are due. Returns the views of the nodes
        after the audit."""
        nodes: list[Node] = self._call(context, host, "update_available_resource", node=node)
        return nodes

    def get_node(self, context: Context, host: str, node: str | None = None) -> Node:
        """Return the view of one node; ``node`` is optional if the host has only one. Raises NodeNotFound, InvalidInput."""
        view: Node = self._call(context, host, "get_node", node=node)
        return view

    def list_nodes(self, context: Context, host: str) -> list[Node]:
        """Return the views of all nodes of the host."""
        nodes: list[Node] = self._call(context, host, "list_nodes")
        return nodes

    # --- billing -----------------------------------------------------------------------------------------------------

    def get_instances(
        self, context: Context, host: str, node: str, after: str | None = None, limit: int = 500
    ) -> Instances:
        """Return the instances that the node is charged for, in the order of the code points of their uuids: at most ``limit``
        (1 to 500), behind the uuid ``after``. For a consumer that starts late: the page is as of the number ``sequence``, so
        that notifications up to it say nothing new of its instances. Raises NodeNotFound, InvalidInput, AnswerTooLarge."""
        args = {"node": node, "after": after, "limit": limit}
        instances: Instances = self._call(context, host, "get_instances", **args)
        return instances

    def get_notifications(
        self, context: Context, host: str, node: str, after_sequence: int = 0, limit: int = 100
    ) -> Notifications:
        """Return notifications of the node after the number ``after_sequence``, in order: at most ``limit`` (1 to 500), and no
        more than an answer has room for. ``node`` may be a name that no node of the host has any more. Raises NodeNotFound,
        InvalidInput; AnswerTooLarge: the first one alone is too large."""
        args = {"node": node, "after_sequence": after_sequence, "limit": limit}
        notifications: Notifications = self._call(context, host, "get_notifications", **args)
        return notifications

    # --- the worker --------------------------------------------------------------------------------------------------

    def oslo_rpc_server_ping(self, context: Context, host: str) -> str:
        """Return "pong", as the host's worker answers it: the request passes through the queue and the engine."""
        pong: str = self._call(context, host, "oslo_rpc_server_ping")
        return pong
