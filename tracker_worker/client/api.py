# SPDX-License-Identifier: Apache-2.0
"""The RPC API as methods, for schedulers that have an oslo.config object and, if they like, an oslo.messaging transport of
their own. Choosing the backend of oslo.service (threads or eventlet) is the scheduler's business."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oslo_config import cfg

from tracker_worker import errors, threads
from tracker_worker.client.calls import Calls
from tracker_worker.client.casts import Casts
from tracker_worker.client.moves import Moves
from tracker_worker.client.transport import (
    ALLOWED_REMOTE_EXMODS,
    VERSION,
    StockTransport,
    Transport,
    allowed,
)
from tracker_worker.client.types import Claim, Context, InstanceLike, LimitsLike
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.conf.upgrade_levels import read_version_cap
from tracker_worker.ids import uuid7
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion, oslo_messaging
from tracker_worker.wire.versions import needed

__all__ = ["ALLOWED_REMOTE_EXMODS", "VERSION", "TrackerAPI"]

LOG = logging.getLogger(__name__)

# What ends a begin of which it is known that it charged nothing; but for StoreUnavailable, after which it may have.
_ANSWERED = (
    errors.TrackerError,
    oslo_messaging.RemoteError,
    oslo_messaging.RPCVersionCapError,
    NoSuchMethod,
    UnsupportedVersion,
)
_RANDOM_BYTES = 8


class TrackerAPI(Calls, Casts, Moves):
    """One method per RPC method. Each takes the request context (a mapping) and then the host whose worker is asked.

    A method waits for the answer and returns it. It raises the errors of ``tracker_worker.errors``, and
    ``oslo_messaging.MessagingTimeout`` when there is no answer within ``[DEFAULT] rpc_response_timeout`` seconds: the
    request may then still be done. Each method that changes something has a twin, ``cast_<method>``, which sends the same
    request without waiting for an answer. Any thread may call any method. On an oslo.messaging transport the methods raise
    RuntimeError in a process that was forked since: make another TrackerAPI there.

    A request is sent with the version of the newest thing in it: a worker that is older than this client does what it knows,
    and ``UnsupportedVersion`` (of ``oslo_messaging.rpc.dispatcher``) is raised for the rest. With ``[upgrade_levels] tracker``
    a request that needs a newer version than that raises ``oslo_messaging.RPCVersionCapError`` and is not sent.

    :param conf: the scheduler's ConfigOpts; the options of oslo.messaging, ``[tracker] topic`` and ``[upgrade_levels] tracker``
        are registered on it. Raises ConfigurationError: the last one is no version.
    :param transport: a Transport, or an oslo.messaging RPC transport with ``ALLOWED_REMOTE_EXMODS``; None: a transport is made
        from ``conf``.
    """

    def __init__(self, conf: cfg.ConfigOpts, transport: Any = None) -> None:
        register_client_opts(conf)
        self._cap = read_version_cap(conf)
        self._transport: Transport = transport if isinstance(transport, Transport) else StockTransport(conf, transport)

    @contextmanager
    def resource_claim(
        self, context: Context, host: str, instance: InstanceLike, limits: LimitsLike | None = None
    ) -> Iterator[Claim | None]:
        """Begin a claim on entry and finish it on exit. An exception in the block aborts the claim and propagates.

        If the call that begins the claim gets no answer, or StoreUnavailable, it is unknown whether the claim was begun. A cast
        then aborts it, by the id that this method chose, so that no other claim of the instance ends; the host's queue keeps
        the cast after the request. If the call that finishes the claim gets no answer, it is sent again as a cast, because the
        build is done. A client that is pinned to version 1.0 names the claim by the instance's uuid."""
        claim_id = self._new_claim_id()
        ending = claim_id or instance["uuid"]
        try:
            claim = self.begin_resource_claim(context, host, instance, limits, claim_id=claim_id)
        except _ANSWERED as answer:
            if isinstance(answer, errors.StoreUnavailable):
                self._try_cast_abort(context, host, ending)
            raise
        except BaseException:
            self._try_cast_abort(context, host, ending)
            raise
        if claim_id is not None and claim is not None:
            ending = claim["claim_id"]  # another one, if the instance was charged before
        try:
            yield claim
        except BaseException:
            self._try_abort(context, host, ending)
            raise
        try:
            self.finish_resource_claim(context, host, ending)
        except oslo_messaging.MessagingTimeout:
            LOG.warning("no answer to the finish of claim %s on %s; sent again without waiting", ending, host)
            self.cast_finish_resource_claim(context, host, ending)

    def _new_claim_id(self) -> str | None:
        """An id for a claim; None: this client is pinned to a version in which callers do not choose it."""
        if not allowed(needed("begin_resource_claim", {"claim_id": ""}), self._cap):
            return None
        return uuid7(threads.now_microseconds(), int.from_bytes(threads.random_bytes(_RANDOM_BYTES)))

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
