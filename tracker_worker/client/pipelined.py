# SPDX-License-Identifier: Apache-2.0
"""A client for schedulers that need throughput: many requests under way at once on one connection, in msgpack.

    with TrackerClient(conf) as tracker:
        claims = tracker.begin_many(context, "compute-17", [(instance, limits) for instance in instances])
        for claim in claims:
            print(claim.result())

It has the methods of TrackerAPI too, and may be used wherever that is. It starts a thread, which owns the connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any

import msgspec
import oslo_messaging
from oslo_config import cfg

from tracker_worker import errors
from tracker_worker.bus.settings import read_connection
from tracker_worker.client.api import VERSION, Claim, Instance, TrackerAPI
from tracker_worker.client.requester import Gone, Requester, Sent
from tracker_worker.wire.envelope import MSGPACK, ReplyTo, encode_request, fresh_id

Limits = Mapping[str, float | None]


class TrackerClient(TrackerAPI):
    """TrackerAPI, pipelined. Methods may be called from any thread, those that give futures return at once.

    A request that has no answer when the connection is lost is sent again with the same ``_unique_id``: the worker does it
    once. One that is not answered within ``[DEFAULT] rpc_response_timeout`` fails with ``oslo_messaging.MessagingTimeout``, as
    with TrackerAPI, and may still be done.

    :param conf: the scheduler's ConfigOpts, as for TrackerAPI. Raises ConfigurationError for a transport that is no RabbitMQ.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__(conf)

    def _make_client(self, conf: cfg.ConfigOpts, transport: Any) -> Any:
        self._requester = Requester(read_connection(conf))
        self._requester.start()
        return _Client(self._requester, conf.rpc_response_timeout)

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
        self, context: Mapping[str, Any], host: str, requests: Iterable[tuple[Instance, Limits | None]]
    ) -> list[Future[Claim | None]]:
        """Claims for several instances with their limits, decided by the host in this order. Each future gives what
        ``begin_resource_claim`` returns or raises."""
        return self._client.send_many(
            context,
            host,
            "begin_resource_claim",
            [
                {"instance": dict(instance), "limits": None if limits is None else dict(limits)}
                for instance, limits in requests
            ],
        )

    def update_many(
        self, context: Mapping[str, Any], host: str, instances: Iterable[Instance]
    ) -> list[Future[dict[str, bool]]]:
        """Usage updates, done by the host in this order. Each future gives what ``update_usage`` returns or raises."""
        return self._client.send_many(
            context, host, "update_usage", [{"instance": dict(instance)} for instance in instances]
        )


class _Client:
    """What TrackerAPI needs of oslo.messaging's RPCClient, and futures."""

    def __init__(self, requester: Requester, timeout_seconds: float, host: str = "") -> None:
        self._requester = requester
        self._timeout_seconds = timeout_seconds
        self._host = host

    def prepare(self, server: str) -> _Client:
        return _Client(self._requester, self._timeout_seconds, server)

    def call(self, context: Mapping[str, Any], method: str, **args: Any) -> Any:
        (future,) = self.send_many(context, self._host, method, [args])
        return future.result()

    def cast(self, context: Mapping[str, Any], method: str, **args: Any) -> None:
        """Returns when the broker has it. Raises MessageDeliveryFailure when it has no queue for it."""
        done: Future[None] = Future()
        body = self._encode(context, method, args, None)
        self._requester.send(
            Sent(self._host, body, self._timeout_seconds, partial(_resolve_cast, done, self._host, method))
        )
        done.result()

    def send_many(
        self, context: Mapping[str, Any], host: str, method: str, requests: Iterable[Mapping[str, Any]]
    ) -> list[Future[Any]]:
        futures: list[Future[Any]] = []
        sent = []
        for args in requests:
            future: Future[Any] = Future()
            futures.append(future)
            reply_to = ReplyTo(self._requester.reply_queue, fresh_id(), MSGPACK)
            body = self._encode(context, method, args, reply_to)
            sent.append(
                Sent(
                    host,
                    body,
                    self._timeout_seconds,
                    partial(_resolve, future, host, method),
                    msg_id=reply_to.msg_id,
                )
            )
        self._requester.send(*sent)
        return futures

    def _encode(
        self, context: Mapping[str, Any], method: str, args: Mapping[str, Any], reply_to: ReplyTo | None
    ) -> bytes:
        return encode_request(
            method,
            args,
            context=context,
            unique_id=fresh_id(),
            version=VERSION,
            reply_to=reply_to,
            content_type=MSGPACK,
        )


def _resolve(future: Future[Any], host: str, method: str, answer: dict[str, Any] | Gone) -> None:
    if isinstance(answer, Gone):
        future.set_exception(_failure(host, method, answer))
    elif answer["failure"] is not None:
        future.set_exception(_remote(answer["failure"]))
    else:
        future.set_result(answer["result"])


def _resolve_cast(future: Future[None], host: str, method: str, answer: dict[str, Any] | Gone) -> None:
    if isinstance(answer, Gone) and answer is not Gone.ACCEPTED:
        future.set_exception(_failure(host, method, answer))
    else:
        future.set_result(None)


def _failure(host: str, method: str, why: Gone) -> Exception:
    if why is Gone.UNROUTABLE:
        return oslo_messaging.MessageDeliveryFailure(f"{method}: no worker has ever served host {host}")
    return oslo_messaging.MessagingTimeout(f"{method} on host {host}: no answer in time")


def _remote(text: str) -> Exception:
    """The error that the worker told, as it is known here; a RemoteError where it is not."""
    failed = msgspec.json.decode(text)
    kind = getattr(errors, failed["class"], None) if failed["module"] == errors.__name__ else None
    if isinstance(kind, type) and issubclass(kind, errors.TrackerError):
        return kind(*failed["args"], **failed["kwargs"])
    return oslo_messaging.RemoteError(failed["class"], failed["message"], failed["tb"])
