# SPDX-License-Identifier: Apache-2.0
"""What a scheduler does, for the subcommands that ask workers over the broker."""

from __future__ import annotations

import tracker_worker.cli.threading_backend  # noqa: F401 before oslo.messaging: see there

# isort: split
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import oslo_messaging
from amqp.exceptions import AccessRefused, NotFound
from oslo_config import cfg

from tracker_worker.bus.settings import read_settings
from tracker_worker.cli.broker import connected
from tracker_worker.cli.context import CommandFailed, Settings, keep_logs_quiet
from tracker_worker.client.api import ALLOWED_REMOTE_EXMODS, VERSION, TrackerAPI


@contextmanager
def scheduler(settings: Settings, host: str, wait_seconds: int | None = None) -> Iterator[TrackerAPI]:
    """The RPC API, for calls of ``host`` inside the block.

    Raises ConfigurationError, and CommandFailed: no broker, nobody ever served the host, no answer in time, an answer
    that is no error of ours. Refusals pass as what they are.
    """
    conf = _load(settings, wait_seconds)
    with connected(read_settings(conf)) as connection:
        _require(connection, "queue", f"{conf.tracker.topic}.{host}", f"no worker serves host {host}")
    with _transport(conf, f"host {host}") as transport:
        yield TrackerAPI(conf, transport)


def audit_everywhere(settings: Settings) -> None:
    """The fanout of update_available_resource. Raises ConfigurationError, CommandFailed."""
    conf = _load(settings)
    with connected(read_settings(conf)) as connection:
        _require(connection, "exchange", f"{conf.tracker.topic}_fanout", "no worker is connected to the broker")
    with _transport(conf, "the broker") as transport:
        target = oslo_messaging.Target(topic=conf.tracker.topic, version=VERSION, fanout=True)
        oslo_messaging.get_rpc_client(transport, target).cast(request_context(), "update_available_resource")


def request_context(project: str | None = None, user: str | None = None) -> Mapping[str, Any]:
    """The context of one request; the worker's log shows its request_id."""
    return {"request_id": f"req-{uuid4()}", "project_id": project, "user_id": user}


def _load(settings: Settings, wait_seconds: int | None = None) -> cfg.ConfigOpts:
    conf = settings.load() if wait_seconds is None else settings.load(rpc_response_timeout=wait_seconds)
    keep_logs_quiet(conf)
    return conf


def _require(connection: Any, kind: str, name: str, otherwise: str) -> None:
    """A request to what is not there would be dropped, and its answer waited for in vain."""
    channel = connection.channel()
    try:
        if kind == "queue":
            channel.queue_declare(name, passive=True)
        else:
            channel.exchange_declare(name, "fanout", passive=True)
    except NotFound:
        raise CommandFailed(f"{otherwise}: there is no {kind} {name}") from None
    except AccessRefused:
        return  # not allowed to look: the request will tell


@contextmanager
def _transport(conf: cfg.ConfigOpts, who: str) -> Iterator[Any]:
    transport = oslo_messaging.get_rpc_transport(conf, allowed_remote_exmods=ALLOWED_REMOTE_EXMODS)
    try:
        yield transport
    except oslo_messaging.MessagingTimeout as error:
        raise CommandFailed(
            f"no answer from {who} within {conf.rpc_response_timeout} s: no worker serves it now, or it is busy; "
            "what was asked may still be done"
        ) from error
    except oslo_messaging.RemoteError as error:
        raise CommandFailed(f"{who} failed: {error.exc_type}: {error.value}") from error
    except oslo_messaging.MessagingException as error:
        raise CommandFailed(f"{who} cannot be asked: {error}") from error
    finally:
        transport.cleanup()
