# SPDX-License-Identifier: Apache-2.0
"""A worker with its clients, as one cloud would configure them, for each supported configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import raw, stock
from tests.support.worker_process import NODE, Nodes, WorkerProcess

# Each test has a host of its own, so that tests do not share a ledger.
HOSTS: Mapping[str, Nodes] = {
    "alone": {"alone-1": NODE},
    "pair": {"pair-1": NODE, "pair-2": NODE},
    "errors": {"errors-1": NODE, "errors-2": NODE},
    "casts": {"casts-1": NODE},
    "shared": {"shared-1": NODE},
    "fanout": {"fanout-1": NODE},
    "story": {"story-1": NODE},
}
# The topic of a second copy of the notifications, for tests that read the bytes.
COPIES = "copies"

QUEUE_TYPES = ("quorum", "classic")
CLIENT_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "durable": {"amqp_durable_queues": True},
    "quorum": {"rabbit_quorum_queue": True},
    "auto_delete": {"amqp_auto_delete": True},
}
# Both queue types with each common set of client options, and one combination that is rare.
CLOUDS = (
    *((queue_type, options) for queue_type in QUEUE_TYPES for options in ("default", "durable", "quorum")),
    ("quorum", "auto_delete"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One running worker of ``HOSTS``, one client, and one listener that has run since the start."""

    worker: WorkerProcess
    client: stock.Client
    listener: stock.Listener
    raw_connection: raw.RawConnection


@contextmanager
def deployed(directory: Path, url: str, *, queue_type: str, rabbit: Mapping[str, Any]) -> Iterator[Deployment]:
    """Run a deployment. ``rabbit`` holds the [oslo_messaging_rabbit] options of the worker, the client and the listener."""
    options = {
        "bus": {"queue_type": queue_type},
        "oslo_messaging_rabbit": rabbit,
        "notifications": {"topics": f"notifications, {COPIES}", "warn_events": "tracker.claim.rejected"},
    }
    worker = WorkerProcess(directory, transport_url=url, hosts=HOSTS, options=options)
    with ExitStack() as stack:
        stack.callback(worker.close)
        worker.start()
        worker.wait_ready()
        yield Deployment(
            worker=worker,
            client=stack.enter_context(stock.client(url, **rabbit)),
            listener=stack.enter_context(stock.listener(url, **rabbit)),
            raw_connection=stack.enter_context(raw.connect(url)),
        )
