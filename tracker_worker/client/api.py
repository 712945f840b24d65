# SPDX-License-Identifier: Apache-2.0
"""The RPC API as methods, for schedulers that have an oslo.config object and, if they like, an oslo.messaging transport of
their own. Choosing the backend of oslo.service (threads or eventlet) is the scheduler's business."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oslo_config import cfg

from tracker_worker import errors
from tracker_worker.client.transport import (
    ALLOWED_REMOTE_EXMODS,
    VERSION,
    StockTransport,
    Transport,
)
from tracker_worker.client.types import Claim, Context, InstanceLike, LimitsLike, Node, Update, Usage
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.oslo import oslo_messaging

__all__ = ["ALLOWED_REMOTE_EXMODS", "VERSION", "TrackerAPI"]

LOG = logging.getLogger(__name__)


class TrackerAPI:
    """One method per RPC method. Each takes the request context (a mapping) and then the host whose worker is asked.

    A method waits for the answer and returns it. It raises the errors of ``tracker_worker.errors``, and
    ``oslo_messaging.MessagingTimeout`` when there is no answer within ``[DEFAULT] rpc_response_timeout`` seconds: the
    request may then still be done. Each method that changes something has a twin, ``cast_<method>``, which sends the same
    request without waiting for an answer. Any thread may call any method. On an oslo.messaging transport the methods raise
    RuntimeError in a process that was forked since: make another TrackerAPI there.

    :param conf: the scheduler's ConfigOpts; the options of oslo.messaging and ``[tracker] topic`` are registered on it.
    :param transport: a Transport, or an oslo.messaging RPC transport with ``ALLOWED_REMOTE_EXMODS``; None: a transport is made
        from ``conf``.
    """

    def __init__(self, conf: cfg.ConfigOpts, transport: Any = None) -> None:
        register_client_opts(conf)
        self._transport: Transport = transport if isinstance(transport, Transport) else StockTransport(conf, transport)

    # --- calls -------------------------------------------------------------------------------------------------------

    def begin_resource_claim(
        self,
        context: Context,
        host: str,
        instance: InstanceLike,
        limits: LimitsLike | None = None,
        timeout: float | None = None,
    ) -> Claim | None:
        """Charge the instance to its node within ``limits`` (ceilings on total usage). The claim expires after ``timeout``
        seconds; None: the worker's default. The result is None where the node is disabled: nothing is charged there.

        Raises ComputeResourcesUnavailable with every shortfall, ClaimConflict, InvalidInput, NodeNotFound. (The library's
        method of this name returns None for a claim that does not fit, as its model of 2012 did.)"""
        claim: Claim | None = self._call(
            context, host, "begin_resource_claim", **_claim_args(instance, limits, timeout)
        )
        return claim

    def finish_resource_claim(self, context: Context, host: str, claim_id: str) -> Claim | None:
        """End a claim after a build that succeeded; the instance stays charged. Returns None if there is no such claim."""
        claim: Claim | None = self._call(context, host, "finish_resource_claim", claim_id=claim_id)
        return claim

    def abort_resource_claim(self, context: Context, host: str, claim_id: str) -> Claim | None:
        """End a claim after a build that failed, and release what it was charged. Returns None if there is no such claim."""
        claim: Claim | None = self._call(context, host, "abort_resource_claim", claim_id=claim_id)
        return claim

    def update_usage(self, context: Context, host: str, instance: InstanceLike) -> Update:
        """Report new states, sizes or facts of an instance; fields that are not in ``instance`` stay as they are. ``vm_state``
        deleted releases the instance."""
        update: Update = self._call(context, host, "update_usage", instance=dict(instance))
        return update

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

    def list_claims(self, context: Context, host: str, node: str | None = None) -> list[Claim]:
        """Return the claims that have not ended, oldest first. Raises NodeNotFound."""
        claims: list[Claim] = self._call(context, host, "list_claims", node=node)
        return claims

    def get_usage(self, context: Context, host: str, project_id: str | None = None) -> Usage:
        """Return what each project is charged on the host, including claims that are begun."""
        usage: Usage = self._call(context, host, "get_usage", project_id=project_id)
        return usage

    def oslo_rpc_server_ping(self, context: Context, host: str) -> str:
        """Return "pong", as the host's worker answers it: the request passes through the queue and the engine."""
        pong: str = self._call(context, host, "oslo_rpc_server_ping")
        return pong

    # --- casts -------------------------------------------------------------------------------------------------------

    def cast_begin_resource_claim(
        self,
        context: Context,
        host: str,
        instance: InstanceLike,
        limits: LimitsLike | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send ``begin_resource_claim`` without waiting for an answer."""
        self._cast(context, host, "begin_resource_claim", **_claim_args(instance, limits, timeout))

    def cast_finish_resource_claim(self, context: Context, host: str, claim_id: str) -> None:
        """Send ``finish_resource_claim`` without waiting for an answer."""
        self._cast(context, host, "finish_resource_claim", claim_id=claim_id)

    def cast_abort_resource_claim(self, context: Context, host: str, claim_id: str) -> None:
        """Send ``abort_resource_claim`` without waiting for an answer."""
        self._cast(context, host, "abort_resource_claim", claim_id=claim_id)

    def cast_update_usage(self, context: Context, host: str, instance: InstanceLike) -> None:
        """Send ``update_usage`` without waiting for an answer."""
        self._cast(context, host, "update_usage", instance=dict(instance))

    def cast_update_available_resource(self, context: Context, host: str, node: str | None = None) -> None:
        """Send ``update_available_resource`` without waiting for an answer."""
        self._cast(context, host, "update_available_resource", node=node)

    # --- a claim around a build --------------------------------------------------------------------------------------

    @contextmanager
    def resource_claim(
        self, context: Context, host: str, instance: InstanceLike, limits: LimitsLike | None = None
    ) -> Iterator[Claim | None]:
        """Begin a claim on entry and finish it on exit. An exception in the block aborts the claim and propagates.

        If the call that begins the claim gets no answer, it is unknown whether the claim was begun. A cast then aborts it; the
        host's queue keeps the cast after the unanswered request. If the call that finishes the claim gets no answer, it is
        sent again as a cast, because the build is done."""
        claim_id = instance["uuid"]
        try:
            claim = self.begin_resource_claim(context, host, instance, limits)
        except (errors.TrackerError, oslo_messaging.RemoteError):
            raise  # answered: nothing was charged
        except BaseException:
            self._try_cast_abort(context, host, claim_id)
            raise
        try:
            yield claim
        except BaseException:
            self._try_abort(context, host, claim_id)
            raise
        try:
            self.finish_resource_claim(context, host, claim_id)
        except oslo_messaging.MessagingTimeout:
            LOG.warning("no answer to the finish of claim %s on %s; sent again without waiting", claim_id, host)
            self.cast_finish_resource_claim(context, host, claim_id)

    def _try_abort(self, context: Context, host: str, claim_id: str) -> None:
        """Best effort: a failure is logged, never raised, so that it does not hide the exception that caused the abort."""
        try:
            self.abort_resource_claim(context, host, claim_id)
        except oslo_messaging.MessagingTimeout:
            LOG.warning("no answer to the abort of claim %s on %s; sent again without waiting", claim_id, host)
            self._try_cast_abort(context, host, claim_id)
        except (oslo_messaging.MessagingException, errors.TrackerError) as failure:
            LOG.warning("claim %s on %s is not aborted, it will expire: %s", claim_id, host, failure)

    def _try_cast_abort(self, context: Context, host: str, claim_id: str) -> None:
        """Best effort: a failure is logged, never raised."""
        try:
            self.cast_abort_resource_claim(context, host, claim_id)
        except oslo_messaging.MessagingException as failure:
            LOG.warning("claim %s on %s is not aborted, it will expire: %s", claim_id, host, failure)

    # --- the transport -----------------------------------------------------------------------------------------------

    def _call(self, context: Context, host: str, method: str, **args: Any) -> Any:
        return self._transport.call(context, host, method, args)

    def _cast(self, context: Context, host: str, method: str, **args: Any) -> None:
        self._transport.cast(context, host, method, args)


def _claim_args(instance: InstanceLike, limits: LimitsLike | None, timeout: float | None) -> dict[str, Any]:
    return {
        "instance": dict(instance),
        "limits": None if limits is None else dict(limits),
        "timeout": timeout,
    }
