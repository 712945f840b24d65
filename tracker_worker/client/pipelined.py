# SPDX-License-Identifier: Apache-2.0
"""A client for schedulers that need throughput: many requests under way at once on one connection, in msgpack.

    with TrackerClient(conf) as tracker:
        claims = tracker.begin_many(context, "compute-17", [(instance, limits) for instance in instances])
        for claim in claims:
            print(claim.result())

It has the methods of TrackerAPI too, and may be used wherever a TrackerAPI is. It starts a thread, which owns the connection.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.bus.settings import ConnectionSettings, read_connection
from tracker_worker.client.api import TrackerAPI
from tracker_worker.client.requester import NoReply, OutgoingRequest, Requester
from tracker_worker.client.transport import remote_error, version_of
from tracker_worker.client.types import Claim, Context, InstanceLike, LimitsLike, Update
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.conf.upgrade_levels import read_version_cap
from tracker_worker.oslo import oslo_messaging
from tracker_worker.wire.message import MSGPACK, ReplyTo, fresh_id
from tracker_worker.wire.request import encode_request


class TrackerClient(TrackerAPI):
    """TrackerAPI, pipelined. Methods may be called from any thread; those that return futures return immediately.

    A request without an answer when the connection is lost is sent again with the same ``_unique_id``: the worker does it
    once. A request without an answer within ``[DEFAULT] rpc_response_timeout`` seconds fails with
    ``oslo_messaging.MessagingTimeout``, as with TrackerAPI, and may still be done.

    A forked child may use the client too: it opens a connection of its own when it sends its first request. Futures of requests
    that the parent has sent raise RuntimeError in the child; the parent gets their answers.

    :param conf: the scheduler's ConfigOpts, as for TrackerAPI. Raises ConfigurationError for a transport that is not RabbitMQ.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        register_client_opts(conf)
        self._pipeline = PipelinedTransport(
            read_connection(conf), conf.rpc_response_timeout, version_cap=read_version_cap(conf)
        )
        self._pipeline.start()
        super().__init__(conf, self._pipeline)

    def close(self) -> None:
        """Requests that are under way fail with MessagingTimeout. Harmless when closed."""
        self._pipeline.stop()

    def __enter__(self) -> TrackerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin_many(
        self, context: Context, host: str, requests: Iterable[tuple[InstanceLike, LimitsLike | None]]
    ) -> list[Future[Claim | None]]:
        """Claims for several instances with their limits, decided by the host in this order. Each future gives what
        ``begin_resource_claim`` returns or raises."""
        return self._pipeline.send_many(
            context,
            host,
            "begin_resource_claim",
            [
                {"instance": dict(instance), "limits": None if limits is None else dict(limits)}
                for instance, limits in requests
            ],
        )

    def update_many(self, context: Context, host: str, instances: Iterable[InstanceLike]) -> list[Future[Update]]:
        """Usage updates, done by the host in this order. Each future gives what ``update_usage`` returns or raises."""
        return self._pipeline.send_many(
            context, host, "update_usage", [{"instance": dict(instance)} for instance in instances]
        )


class PipelinedTransport:
    """The Transport on a Requester, and futures. Any thread may use it, and any forked child, which gets a Requester of its
    own."""

    def __init__(self, settings: ConnectionSettings, timeout_seconds: float, *, version_cap: str | None = None) -> None:
        """A request that needs a newer version of the RPC API than ``version_cap`` raises RPCVersionCapError."""
        self._settings = settings
        self._version_cap = version_cap
        self._timeout_seconds = timeout_seconds
        self._requester = Requester(settings)
        self._lock = threading.Lock()
        self._forked = False
        self._stopped = False
        _transports.add(self)

    def start(self) -> None:
        self._requester.start()

    def stop(self) -> None:
        """Requests under way end. Harmless when stopped."""
        self._stopped = True
        if not self._forked:
            self._requester.stop(0)

    def abandon(self) -> None:
        """Called in a forked child, on its only thread, before anything else runs there."""
        self._lock = threading.Lock()
        if not self._forked:
            self._forked = True
            self._requester.abandon()

    def _own(self) -> Requester:
        """The requester of this process."""
        if self._forked:
            with self._lock:
                if self._stopped:
                    raise RuntimeError("the client is closed")
                if self._forked:
                    self._requester = Requester(self._settings)
                    self._requester.start()
                    self._forked = False
        return self._requester

    def call(self, context: Context, host: str, method: str, args: Mapping[str, Any]) -> Any:
        (future,) = self.send_many(context, host, method, [args])
        return future.result()

    def cast(self, context: Context, host: str, method: str, args: Mapping[str, Any]) -> None:
        """Returns when the broker has the request. Raises MessageDeliveryFailure when no queue takes it."""
        done: Future[None] = Future()
        request = OutgoingRequest(
            host=host,
            body=self._encode(context, method, args, None),
            timeout_seconds=self._timeout_seconds,
            done=partial(_resolve_cast, done, host, method),
        )
        self._own().send(request)
        done.result()

    def send_many(
        self, context: Context, host: str, method: str, requests: Iterable[Mapping[str, Any]]
    ) -> list[Future[Any]]:
        """Send calls of one method, in this order; each future gives the result or raises the error."""
        requester = self._own()
        futures: list[Future[Any]] = []
        outgoing = []
        for args in requests:
            future: Future[Any] = Future()
            futures.append(future)
            reply_to = ReplyTo(requester.reply_queue, fresh_id(), MSGPACK)
            outgoing.append(
                OutgoingRequest(
                    host=host,
                    body=self._encode(context, method, args, reply_to),
                    timeout_seconds=self._timeout_seconds,
                    done=partial(_resolve, future, host, method),
                    msg_id=reply_to.msg_id,
                )
            )
        requester.send(*outgoing)
        return futures

    def _encode(self, context: Context, method: str, args: Mapping[str, Any], reply_to: ReplyTo | None) -> bytes:
        return encode_request(
            method,
            args,
            context=context,
            unique_id=fresh_id(),
            version=version_of(method, args, self._version_cap),
            reply_to=reply_to,
            content_type=MSGPACK,
        )


# Those of this process, for its forked children.
_transports: weakref.WeakSet[PipelinedTransport] = weakref.WeakSet()


def _abandon_all() -> None:
    for transport in list(_transports):
        transport.abandon()


os.register_at_fork(after_in_child=_abandon_all)


def _resolve(future: Future[Any], host: str, method: str, reply: dict[str, Any] | NoReply) -> None:
    if isinstance(reply, NoReply):
        _fail(future, host, method, reply)
    elif reply["failure"] is not None:
        future.set_exception(remote_error(reply["failure"]))
    else:
        future.set_result(reply["result"])


def _resolve_cast(future: Future[None], host: str, method: str, reply: dict[str, Any] | NoReply) -> None:
    if isinstance(reply, NoReply) and reply is not NoReply.ACCEPTED:
        _fail(future, host, method, reply)
    else:
        future.set_result(None)


def _fail(future: Future[Any], host: str, method: str, why: NoReply) -> None:
    if why is NoReply.FORKED:
        # The lock of the parent's future may have been held at the fork, by a thread that this process does not have.
        future._condition = threads.Condition()
    future.set_exception(_failure(host, method, why))


def _failure(host: str, method: str, why: NoReply) -> Exception:
    if why is NoReply.FORKED:
        return RuntimeError(
            f"{method} on host {host} was sent before this process was forked: its parent gets the answer"
        )
    if why is NoReply.UNROUTABLE:
        return oslo_messaging.MessageDeliveryFailure(f"{method}: no worker has ever served host {host}")
    return oslo_messaging.MessagingTimeout(f"{method} on host {host}: no answer in time")
