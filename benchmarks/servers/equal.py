# SPDX-License-Identifier: Apache-2.0
"""A stock oslo.messaging server that does the worker's work with the library's ResourceTracker on SQLite and a stock Notifier.

The handler commits each call with synchronous=FULL and has its notification confirmed before the reply, one after the other,
as stock programs do. The server has no inbox and no relay: a crash may lose or repeat messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tracker_worker.cli.threading_backend  # noqa: F401 first: chooses threads for oslo.service

# isort: split

import oslo_messaging
from oslo_config import cfg

from benchmarks.servers import program, stock
from benchmarks.workload import NODE, RESOURCE
from tracker_worker.errors import ComputeResourcesUnavailable
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.library.tracker import ResourceTracker
from tracker_worker.store.sql.store import SQLStore


class Tracking:
    """The RPC endpoint."""

    def __init__(self, tracker: ResourceTracker, notifier: Any) -> None:
        self._tracker = tracker
        self._notifier = notifier

    def begin_resource_claim(self, context: Any, instance: Any, limits: Any = None, timeout: Any = None) -> Any:
        claim = self._tracker.begin_resource_claim(context, instance, limits, timeout)
        if claim is None:
            raise ComputeResourcesUnavailable(shortfalls=[])
        sizes = {"VCPU": claim.vcpus, "MEMORY_MB": claim.memory_mb, "DISK_GB": claim.disk_gb}
        reply = {**stock.CLAIM, "claim_id": claim.claim_id, "instance_uuid": instance["uuid"], "resources": sizes}
        self._notifier.info(context, "tracker.claim.begun", {**instance, **reply})
        return reply

    def finish_resource_claim(self, context: Any, claim_id: str) -> Any:
        self._tracker.finish_resource_claim(claim_id)
        reply = {**stock.CLAIM, "claim_id": claim_id, "state": "finished"}
        self._notifier.info(context, "tracker.claim.finished", reply)
        return reply

    def update_usage(self, context: Any, instance: Any) -> Any:
        self._tracker.update_usage(context, instance)
        self._notifier.info(context, "tracker.usage.updated", instance)
        return {"tracked": True, "changed": True}


@contextmanager
def serve(conf: cfg.ConfigOpts) -> Iterator[None]:
    host = conf.tracker.hosts[0]
    store = SQLStore(f"sqlite:///{conf.tracker.state_path}/tracker.sqlite")
    store.start()
    tracker = ResourceTracker(host, FakeDriver(host, nodes={NODE: RESOURCE}), store=store, conf=conf)
    tracker.update_available_resource({})
    transport = oslo_messaging.get_notification_transport(conf)
    notifier = oslo_messaging.Notifier(
        transport, f"tracker.{host}", driver="messagingv2", topics=conf.notifications.topics
    )
    # The queue must exist before the generator counts its messages; the worker's first inventory is a notification too.
    notifier.info({}, "tracker.node.updated", {})
    with stock.serve(conf, Tracking(tracker, notifier)):
        yield
    transport.cleanup()
    store.stop()


if __name__ == "__main__":
    program.run(serve)
