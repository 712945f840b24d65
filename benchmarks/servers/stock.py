# SPDX-License-Identifier: Apache-2.0
"""A stock oslo.messaging server whose handlers do nothing: 64 threads, a constant reply, nothing stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tracker_worker.cli.threading_backend  # noqa: F401 first: chooses threads for oslo.service

# isort: split

import oslo_messaging
from oslo_config import cfg

from benchmarks.servers import program

THREADS = 64
CLAIM = {
    "claim_id": "019bc0de-0000-7000-8000-000000000001",
    "instance_uuid": "5c0de000-0000-4000-8000-000000000001",
    "host": "host-1",
    "node": "node-1",
    "resources": {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50},
    "state": "begun",
    "begun_at": "2026-01-15T12:00:00.000000Z",
    "expires_at": "2026-01-15T12:10:00.000000Z",
    "generation": 1,
    "limit_source": "caller",
    "on_expiry": None,
}


class Constant:
    """The RPC endpoint."""

    def begin_resource_claim(self, context: Any, instance: Any, limits: Any = None, timeout: Any = None) -> Any:
        return CLAIM

    def finish_resource_claim(self, context: Any, claim_id: str) -> Any:
        return CLAIM

    def update_usage(self, context: Any, instance: Any) -> Any:
        return {"tracked": True, "changed": True}


@contextmanager
def serve(conf: cfg.ConfigOpts, endpoint: object) -> Iterator[None]:
    """Run a server for the first of [tracker] hosts."""
    transport = oslo_messaging.get_rpc_transport(conf)
    target = oslo_messaging.Target(topic=conf.tracker.topic, server=conf.tracker.hosts[0], version="1.0")
    server = oslo_messaging.get_rpc_server(transport, target, [endpoint], executor="threading")
    conf.set_override("executor_thread_pool_size", THREADS)
    server.start()
    try:
        yield
    finally:
        server.stop()
        server.wait()
        transport.cleanup()


if __name__ == "__main__":
    program.run(lambda conf: serve(conf, Constant()))
