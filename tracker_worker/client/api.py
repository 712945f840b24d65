# SPDX-License-Identifier: Apache-2.0
"""What a scheduler imports: the RPC API as methods, on a stock oslo.messaging client.

Works with any scheduler that has an oslo.config object and, if it likes, an oslo.messaging transport of its own. Choosing the
backend of oslo.service (threads or eventlet) is the scheduler's business, not this module's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import oslo_messaging
from oslo_config import cfg

from tracker_worker import errors
from tracker_worker.conf import tracker as options
from tracker_worker.conf.opts import register_messaging_opts

LOG = logging.getLogger(__name__)

VERSION = "1.0"
ALLOWED_REMOTE_EXMODS = [errors.__name__, "oslo_messaging.rpc.dispatcher"]

Instance = Mapping[str, Any]
Claim = dict[str, Any]
NodeView = dict[str, Any]


class TrackerAPI:
    """One method per RPC method; every one takes the request context (a dict) and then the host whose worker is asked.

    Methods are calls and return what interfaces call their result; those with ``cast=True`` are sent without waiting and
    return None. Calls raise the errors of ``tracker_worker.errors``, and ``oslo_messaging.MessagingTimeout`` when there is no
    answer within ``[DEFAULT] rpc_response_timeout``: the request may then still be done.

    :param conf: the scheduler's ConfigOpts; the options of oslo.messaging and ``[tracker] topic`` are registered on it.
    :param transport: an RPC transport with ``ALLOWED_REMOTE_EXMODS``; None: one is made from ``conf``.
    """

    def __init__(self, conf: cfg.ConfigOpts, transport: Any = None) -> None:
        register_messaging_opts(conf)
        conf.register_opts([option for option in options.OPTIONS if option.name == "topic"], group=options.GROUP)
        self._client = self._make_client(conf, transport)

    def _make_client(self, conf: cfg.ConfigOpts, transport: Any) -> Any:
        if transport is None:
            transport = oslo_messaging.get_rpc_transport(conf, allowed_remote_exmods=ALLOWED_REMOTE_EXMODS)
        elif transport.conf is not conf:
            register_messaging_opts(transport.conf)  # where the client reads them
        target = oslo_messaging.Target(topic=conf.tracker.topic, version=VERSION)
        return oslo_messaging.get_rpc_client(transport, target)

    def _send(self, context: Mapping[str, Any], host: str, method: str, cast: bool = False, **args: Any) -> Any:
        prepared = self._client.prepare(server=host)
        send = prepared.cast if cast else prepared.call
        return send(dict(context), method, **args)

    def begin_resource_claim(
        self,
        context: Mapping[str, Any],
        host: str,
        instance: Instance,
        limits: Mapping[str, float | None] | None = None,
        timeout: float | None = None,
        *,
        cast: bool = False,
    ) -> Claim | None:
        """Charge the instance to its node within ``limits`` (ceilings on total usage: memory_mb, disk_gb, vcpu). The claim
        expires after ``timeout`` seconds (None: the worker's default). None: the node is disabled.

        Raises ComputeResourcesUnavailable with every shortfall, ClaimConflict, InvalidInput, NodeNotFound.
        """
        return self._send(
            context,
            host,
            "begin_resource_claim",
            cast,
            instance=dict(instance),
            limits=None if limits is None else dict(limits),
            timeout=timeout,
        )

    def finish_resource_claim(
        self, context: Mapping[str, Any], host: str, claim_id: str, *, cast: bool = False
    ) -> Claim | None:
        """The build is done; the instance stays charged. None: there is no such claim (any more)."""
        return self._send(context, host, "finish_resource_claim", cast, claim_id=claim_id)

    def abort_resource_claim(
        self, context: Mapping[str, Any], host: str, claim_id: str, *, cast: bool = False
    ) -> Claim | None:
        """The build failed; what was charged is released. None: there is no such claim (any more)."""
        return self._send(context, host, "abort_resource_claim", cast, claim_id=claim_id)

    def update_usage(
        self, context: Mapping[str, Any], host: str, instance: Instance, *, cast: bool = False
    ) -> dict[str, bool] | None:
        """New states, sizes or facts of an instance; what is not in ``instance`` stays as it is. ``vm_state`` deleted
        releases it. Returns {"tracked", "changed"}."""
        return self._send(context, host, "update_usage", cast, instance=dict(instance))

    def update_available_resource(
        self, context: Mapping[str, Any], host: str, node: str | None = None, *, cast: bool = False
    ) -> list[NodeView] | None:
        """Audit: read the inventories and expire what is due. Returns the nodes as they are then."""
        return self._send(context, host, "update_available_resource", cast, node=node)

    def get_node(self, context: Mapping[str, Any], host: str, node: str | None = None) -> NodeView:
        """One node; ``node`` may be left out where the host has only one. Raises NodeNotFound."""
        view: NodeView = self._send(context, host, "get_node", node=node)
        return view

    def list_nodes(self, context: Mapping[str, Any], host: str) -> list[NodeView]:
        """All nodes of the host."""
        found: list[NodeView] = self._send(context, host, "list_nodes")
        return found

    def list_claims(self, context: Mapping[str, Any], host: str, node: str | None = None) -> list[Claim]:
        """The claims that are begun and not ended, oldest first. Raises NodeNotFound."""
        found: list[Claim] = self._send(context, host, "list_claims", node=node)
        return found

    def get_usage(
        self, context: Mapping[str, Any], host: str, project_id: str | None = None
    ) -> dict[str, dict[str, int]]:
        """Per project: instances, VCPU, MEMORY_MB, DISK_GB, claims that are not finished included."""
        usage: dict[str, dict[str, int]] = self._send(context, host, "get_usage", project_id=project_id)
        return usage

    def oslo_rpc_server_ping(self, context: Mapping[str, Any], host: str) -> str:
        """What the host's worker itself answers, "pong": its whole request path works."""
        answer: str = self._send(context, host, "oslo_rpc_server_ping")
        return answer

    @contextmanager
    def resource_claim(
        self,
        context: Mapping[str, Any],
        host: str,
        instance: Instance,
        limits: Mapping[str, float | None] | None = None,
    ) -> Iterator[Claim | None]:
        """A claim around a build: begun on entry, finished on exit, aborted on any exception, which propagates.

        A call of its own that is not answered leaves the claim in doubt. On entry, whatever cut it short, it is then aborted,
        by a cast that the host's queue keeps behind the request in doubt. On exit the build is done, and the finish is sent
        again as a cast.
        """
        claim_id = instance["uuid"]
        try:
            claim = self.begin_resource_claim(context, host, instance, limits)
        except (errors.TrackerError, oslo_messaging.RemoteError):
            raise  # answered: nothing was charged
        except BaseException:
            self._cast_abort(context, host, claim_id)
            raise
        try:
            yield claim
        except BaseException:
            self._abort(context, host, claim_id)
            raise
        try:
            self.finish_resource_claim(context, host, claim_id)
        except oslo_messaging.MessagingTimeout:
            LOG.warning("no answer to the finish of claim %s on %s; sent again without waiting", claim_id, host)
            self.finish_resource_claim(context, host, claim_id, cast=True)

    def _abort(self, context: Mapping[str, Any], host: str, claim_id: str) -> None:
        """Never in the way of the exception that is the reason."""
        try:
            self.abort_resource_claim(context, host, claim_id)
        except oslo_messaging.MessagingTimeout:
            LOG.warning("no answer to the abort of claim %s on %s; sent again without waiting", claim_id, host)
            self._cast_abort(context, host, claim_id)
        except (oslo_messaging.MessagingException, errors.TrackerError) as failure:
            LOG.warning("claim %s on %s is not aborted, it will expire: %s", claim_id, host, failure)

    def _cast_abort(self, context: Mapping[str, Any], host: str, claim_id: str) -> None:
        """Neither in the way."""
        try:
            self.abort_resource_claim(context, host, claim_id, cast=True)
        except oslo_messaging.MessagingException as failure:
            LOG.warning("claim %s on %s is not aborted, it will expire: %s", claim_id, host, failure)
