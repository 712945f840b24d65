# SPDX-License-Identifier: Apache-2.0
"""RPC requests to workers over the broker, as a scheduler sends them."""

from __future__ import annotations

import tracker_worker.cli.threading_backend  # noqa: F401 must precede oslo.messaging

# isort: split
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from amqp.exceptions import AccessRefused, NotFound
from oslo_config import cfg

from tracker_worker.bus.settings import read_settings
from tracker_worker.cli import operator
from tracker_worker.cli.broker import connected
from tracker_worker.cli.context import CommandFailed, Settings, keep_logs_quiet
from tracker_worker.cli.failures import BROKER_UNREACHABLE, NO_WORKER, TIMEOUT
from tracker_worker.client.api import ALLOWED_REMOTE_EXMODS, TrackerAPI
from tracker_worker.oslo import UnsupportedVersion, oslo_messaging
from tracker_worker.wire.versions import needed


@contextmanager
def scheduler(settings: Settings, host: str, wait_seconds: int | None = None) -> Iterator[TrackerAPI]:
    """The RPC API, for calls to the worker of ``host`` inside the block.

    Raises ConfigurationError: the configuration is unusable; CommandFailed: no broker answers, no worker has ever served
    the host, the worker does not answer in time, or it answers with an error that is not a TrackerError. A worker's
    refusals, which are TrackerErrors, pass unchanged.
    """
    conf = _load(settings, wait_seconds)
    with connected(read_settings(conf)) as connection:
        _require(connection, "queue", f"{conf.tracker.topic}.{host}", f"no worker serves host {host}")
    with _transport(conf, f"host {host}") as transport:
        yield TrackerAPI(conf, transport)


def audit_everywhere(settings: Settings) -> None:
    """Ask every connected worker to audit its hosts, by a fanout cast of update_available_resource.

    Raises ConfigurationError: the configuration is unusable; CommandFailed: no broker answers, or no worker is connected.
    """
    conf = _load(settings)
    with connected(read_settings(conf)) as connection:
        _require(connection, "exchange", f"{conf.tracker.topic}_fanout", "no worker is connected to the broker")
    with _transport(conf, "the broker") as transport:
        method = "update_available_resource"
        target = oslo_messaging.Target(topic=conf.tracker.topic, version=needed(method, {}), fanout=True)
        oslo_messaging.get_rpc_client(transport, target).cast(request_context(), method)


def request_context(project: str | None = None, user: str | None = None) -> Mapping[str, Any]:
    """A new request context. The worker's log lines about the request have its request_id; ``user_name``, for the rules of a
    policy file, is who runs this process."""
    return {"request_id": f"req-{uuid4()}", "project_id": project, "user_id": user, "user_name": operator.user()}


def _load(settings: Settings, wait_seconds: int | None = None) -> cfg.ConfigOpts:
    conf = settings.load() if wait_seconds is None else settings.load(rpc_response_timeout=wait_seconds)
    keep_logs_quiet(conf)
    return conf


def _require(connection: Any, kind: str, name: str, otherwise: str) -> None:
    """Check that a queue or an exchange exists: the broker would drop a request without it, and no answer would come.

    Raises CommandFailed, which begins with ``otherwise``: it does not exist.
    """
    channel = connection.channel()
    try:
        if kind == "queue":
            channel.queue_declare(name, passive=True)
        else:
            channel.exchange_declare(name, "fanout", passive=True)
    except NotFound:
        raise CommandFailed(f"{otherwise}: {kind} {name} does not exist", code=NO_WORKER, **{kind: name}) from None
    except AccessRefused:
        return  # the user may not declare it; the request itself shows whether it exists


@contextmanager
def _transport(conf: cfg.ConfigOpts, callee: str) -> Iterator[Any]:
    """An RPC transport for the block. Errors of oslo.messaging become CommandFailed, which names ``callee``."""
    transport = oslo_messaging.get_rpc_transport(conf, allowed_remote_exmods=ALLOWED_REMOTE_EXMODS)
    try:
        yield transport
    except oslo_messaging.MessagingTimeout as error:
        raise CommandFailed(
            f"no answer from {callee} within {conf.rpc_response_timeout} s: no worker serves it now, or its worker is "
            "busy; the request may still be executed later",
            code=TIMEOUT,
            seconds=conf.rpc_response_timeout,
        ) from error
    except oslo_messaging.RPCVersionCapError as error:
        raise CommandFailed(
            f"the request needs version {error.version} of the RPC API, and [upgrade_levels] tracker is {error.version_cap}"
        ) from error
    except UnsupportedVersion as error:
        raise CommandFailed(
            f"the worker of {callee} is older than this program and does not know the request (version {error.version})"
        ) from error
    except oslo_messaging.RemoteError as error:
        raise CommandFailed(f"{callee} failed: {error.exc_type}: {error.value}") from error
    except oslo_messaging.MessagingException as error:
        raise CommandFailed(f"the request to {callee} cannot be sent: {error}", code=BROKER_UNREACHABLE) from error
    finally:
        transport.cleanup()
