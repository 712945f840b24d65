# SPDX-License-Identifier: Apache-2.0
"""How a request reaches a host's worker: the protocol that the API needs, and the stock implementation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec
from oslo_config import cfg

from tracker_worker import errors
from tracker_worker.client.types import Context
from tracker_worker.conf.opts import register_messaging_opts
from tracker_worker.conf.upgrade_levels import read_version_cap
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion, oslo_messaging
from tracker_worker.wire.versions import VERSION, needed

__all__ = ["ALLOWED_REMOTE_EXMODS", "VERSION", "StockTransport", "Transport", "allowed", "remote_error", "version_of"]

ALLOWED_REMOTE_EXMODS = [errors.__name__, "oslo_messaging.rpc.dispatcher"]


@runtime_checkable
class Transport(Protocol):
    """Sends requests to the worker of one host, each with the version that ``version_of`` gives it. ``args`` are the method's
    arguments, made of JSON types."""

    def call(self, context: Context, host: str, method: str, args: Mapping[str, Any]) -> Any:
        """The result. Raises the errors of ``tracker_worker.errors``, and ``oslo_messaging.MessagingTimeout`` when there is no
        answer in time: the request may then still be done."""

    def cast(self, context: Context, host: str, method: str, args: Mapping[str, Any]) -> None:
        """Send the request without waiting for an answer. Raises ``oslo_messaging.MessagingException``: it cannot be sent."""


class StockTransport:
    """A stock oslo.messaging client. Any thread may use it. In a forked child its methods raise RuntimeError."""

    def __init__(self, conf: cfg.ConfigOpts, transport: Any = None) -> None:
        """``transport`` is an RPC transport with ALLOWED_REMOTE_EXMODS; None: one is made from ``conf``."""
        if transport is None:
            transport = oslo_messaging.get_rpc_transport(conf, allowed_remote_exmods=ALLOWED_REMOTE_EXMODS)
        elif transport.conf is not conf:
            register_messaging_opts(transport.conf)  # the client reads its options there
        self._cap = read_version_cap(conf)
        self._client = oslo_messaging.get_rpc_client(transport, oslo_messaging.Target(topic=conf.tracker.topic))
        self._process = os.getpid()

    def call(self, context: Context, host: str, method: str, args: Mapping[str, Any]) -> Any:
        return self._to(host, method, args).call(dict(context), method, **args)

    def cast(self, context: Context, host: str, method: str, args: Mapping[str, Any]) -> None:
        self._to(host, method, args).cast(dict(context), method, **args)

    def _to(self, host: str, method: str, args: Mapping[str, Any]) -> Any:
        """The stock client for one request. Raises RPCVersionCapError; RuntimeError: an oslo.messaging transport does not
        survive a fork, since its threads are gone and its sockets are the parent's."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "the transport was made before this process was forked: make another TrackerAPI in the child"
            )
        return self._client.prepare(server=host, version=version_of(method, args, self._cap))


def version_of(method: str, args: Mapping[str, Any], cap: str | None) -> str:
    """The version to send a request with. Raises ``oslo_messaging.RPCVersionCapError``: it is above ``cap``, the pin of the
    client."""
    version = needed(method, args)
    if not allowed(version, cap):
        raise oslo_messaging.RPCVersionCapError(version=version, version_cap=cap)
    return version


def allowed(version: str, cap: str | None) -> bool:
    """Whether a client that is pinned to ``cap`` may send ``version``. Both have the same major version."""
    return cap is None or _minor(version) <= _minor(cap)


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


def remote_error(failure: str) -> Exception:
    """The error in a reply, rebuilt: one of ``tracker_worker.errors``, NoSuchMethod or UnsupportedVersion, or an
    oslo_messaging.RemoteError for any other class."""
    failed = msgspec.json.decode(failure)
    for dispatched in (NoSuchMethod, UnsupportedVersion):
        if (failed["module"], failed["class"]) == (dispatched.__module__, dispatched.__name__):
            return dispatched(*failed["args"])
    kind = getattr(errors, failed["class"], None) if failed["module"] == errors.__name__ else None
    if isinstance(kind, type) and issubclass(kind, errors.TrackerError):
        return kind(*failed["args"], **failed["kwargs"])
    return oslo_messaging.RemoteError(failed["class"], failed["message"], failed["tb"])
