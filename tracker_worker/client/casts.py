# SPDX-License-Identifier: Apache-2.0
"""The RPC methods that change something, as casts, which do not wait for an answer. ``TrackerAPI`` has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from tracker_worker.client.arguments import claim_arguments, given, group_arguments
from tracker_worker.client.transport import Transport
from tracker_worker.client.types import Context, GroupEntry, InstanceLike, LimitsLike


class Casts:
    """The twin ``cast_<method>`` of each method that changes something: it sends the same request and returns."""

    _transport: Transport

    def _cast(self, context: Context, host: str, method: str, **args: Any) -> None:
        self._transport.cast(context, host, method, args)

    def cast_begin_resource_claim(
        self,
        context: Context,
        host: str,
        instance: InstanceLike,
        limits: LimitsLike | None = None,
        timeout: float | None = None,
        *,
        claim_id: str | None = None,
        on_expiry: Literal["keep", "release"] | None = None,
    ) -> None:
        """Send ``begin_resource_claim`` without waiting for an answer."""
        args = claim_arguments(instance, limits, timeout, claim_id=claim_id, on_expiry=on_expiry)
        self._cast(context, host, "begin_resource_claim", **args)

    def cast_begin_resource_claims(
        self,
        context: Context,
        host: str,
        claims: Iterable[GroupEntry],
        timeout: float | None = None,
        on_expiry: Literal["keep", "release"] | None = None,
    ) -> None:
        """Send ``begin_resource_claims`` without waiting for an answer."""
        self._cast(context, host, "begin_resource_claims", **group_arguments(claims, timeout, on_expiry))

    def cast_finish_resource_claim(self, context: Context, host: str, claim_id: str) -> None:
        """Send ``finish_resource_claim`` without waiting for an answer."""
        self._cast(context, host, "finish_resource_claim", claim_id=claim_id)

    def cast_abort_resource_claim(self, context: Context, host: str, claim_id: str) -> None:
        """Send ``abort_resource_claim`` without waiting for an answer."""
        self._cast(context, host, "abort_resource_claim", claim_id=claim_id)

    def cast_renew_resource_claim(
        self, context: Context, host: str, claim_id: str, timeout: float | None = None
    ) -> None:
        """Send ``renew_resource_claim`` without waiting for an answer."""
        self._cast(context, host, "renew_resource_claim", **given(claim_id=claim_id, timeout=timeout))

    def cast_update_usage(self, context: Context, host: str, instance: InstanceLike) -> None:
        """Send ``update_usage`` without waiting for an answer."""
        self._cast(context, host, "update_usage", instance=dict(instance))

    def cast_release_allocation(self, context: Context, host: str, instance_uuid: str, reason: str) -> None:
        """Send ``release_allocation`` without waiting for an answer."""
        self._cast(context, host, "release_allocation", instance_uuid=instance_uuid, reason=reason)

    def cast_adopt(self, context: Context, host: str, instances: Iterable[InstanceLike]) -> None:
        """Send ``adopt`` without waiting for an answer."""
        self._cast(context, host, "adopt", instances=[dict(instance) for instance in instances])

    def cast_report_instances(self, context: Context, host: str, node: str | None, uuids: Iterable[str]) -> None:
        """Send ``report_instances`` without waiting for an answer: a difference is published."""
        self._cast(context, host, "report_instances", **given(uuids=list(uuids), node=node))

    def cast_update_available_resource(self, context: Context, host: str, node: str | None = None) -> None:
        """Send ``update_available_resource`` without waiting for an answer."""
        self._cast(context, host, "update_available_resource", node=node)
