# SPDX-License-Identifier: Apache-2.0
"""A client for schedulers that need throughput: many requests under way at once on one connection, in msgpack.

    with TrackerClient(conf) as tracker:
        claims = tracker.begin_many(context, "compute-17", [(instance, limits) for instance in instances])
        for claim in claims:
            print(claim.result())

It has the methods of TrackerAPI too, and may be used wherever a TrackerAPI is. It starts a thread, which owns the connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any

from oslo_config import cfg

from tracker_worker.bus.settings import read_connection
from tracker_worker.client.api import TrackerAPI
from tracker_worker.client.requester import NoReply, OutgoingRequest, Requester
from tracker_worker.client.transport import VERSION, remote_error
from tracker_worker.client.types import Claim, Context, InstanceLike, LimitsLike, Update
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.oslo import oslo_messaging
from tracker_worker.wire.message import MSGPACK, ReplyTo, fresh_id
from tracker_worker.wire.request import encode_request


class TrackerClient(TrackerAPI):
    """TrackerAPI, pipelined. Methods may be called from any thread; those that return futures return immediately.

    A request without an answer when the connection is lost is sent again with the same ``_unique_id``: the worker does it
    once. A request without an answer within ``[DEFAULT] rpc_response_timeout`` seconds fails with
    ``oslo_messaging.MessagingTimeout``, as with TrackerAPI, and may still be done.

    :param conf: the scheduler's ConfigOpts, as for TrackerAPI. Raises ConfigurationError for a transport that is not RabbitMQ.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        register_client_opts(conf)
        self._requester = Requester(read_connection(conf))
        self._pipeline = PipelinedTransport(self._requester, conf.rpc_response_timeout)
        self._requester.start()
        super().__init__(conf, self._pipeline)

    def close(self) -> None:
        """Requests that are under way fail with MessagingTimeout. Harmless when closed."""
        self._requester.stop(0)

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
    """The Transport on a Requester, and futures. Any thread may use it."""

    def __init__(self, requester: Requester, timeout_seconds: float) -> None:
        self._requester = requester
        self._timeout_seconds = timeout_seconds

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
        self._requester.send(request)
        done.result()

    def send_many(
        self, context: Context, host: str, method: str, requests: Iterable[Mapping[str, Any]]
    ) -> list[Future[Any]]:
        """Send calls of one method, in this order; each future gives the result or raises the error."""
        futures: list[Future[Any]] = []
        outgoing = []
        for args in requests:
            future: Future[Any] = Future()
            futures.append(future)
            reply_to = ReplyTo(self._requester.reply_queue, fresh_id(), MSGPACK)
            outgoing.append(
                OutgoingRequest(
                    host=host,
                    body=self._encode(context, method, args, reply_to),
                    timeout_seconds=self._timeout_seconds,
                    done=partial(_resolve, future, host, method),
                    msg_id=reply_to.msg_id,
                )
            )
        self._requester.send(*outgoing)
        return futures

    def _encode(self, context: Context, method: str, args: Mapping[str, Any], reply_to: ReplyTo | None) -> bytes:
        return encode_request(
            method,
            args,
            context=context,
            unique_id=fresh_id(),
            version=VERSION,
            reply_to=reply_to,
            content_type=MSGPACK,
        )


def _resolve(future: Future[Any], host: str, method: str, reply: dict[str, Any] | NoReply) -> None:
    if isinstance(reply, NoReply):
        future.set_exception(_failure(host, method, reply))
    elif reply["failure"] is not None:
        future.set_exception(remote_error(reply["failure"]))
    else:
        future.set_result(reply["result"])


def _resolve_cast(future: Future[None], host: str, method: str, reply: dict[str, Any] | NoReply) -> None:
    if isinstance(reply, NoReply) and reply is not NoReply.ACCEPTED:
        future.set_exception(_failure(host, method, reply))
    else:
        future.set_result(None)


def _failure(host: str, method: str, why: NoReply) -> Exception:
    if why is NoReply.UNROUTABLE:
        return oslo_messaging.MessageDeliveryFailure(f"{method}: no worker has ever served host {host}")
    return oslo_messaging.MessagingTimeout(f"{method} on host {host}: no answer in time")
