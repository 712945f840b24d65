# SPDX-License-Identifier: Apache-2.0
"""Stock oslo.messaging programs with an operator's usual configuration, for the recorder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import oslo_messaging
from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_messaging._metrics import client as metrics
from oslo_messaging._tracing import client as tracing
from oslo_messaging.rpc import dispatcher

TOPIC = "tracker"
HOST = "compute-1"
CONTROL_EXCHANGE = "openstack"
NOTIFICATION_TOPIC = "notifications"
# The recorder answers immediately, so this timeout only shows as the expiration of the calls.
RESPONSE_TIMEOUT_SECONDS = 60

INSTANCE: dict[str, Any] = {
    "uuid": "5b1f2c3d-8a54-4c0e-9d0e-0d3a4b7c9e11",
    "display_name": "wëb-1",
    "vm_state": "building",
    "task_state": "scheduling",
    "memory_mb": 2048,
    "root_gb": 20,
    "ephemeral_gb": 5,
    "vcpus": 2,
    "os_type": "linux",
    "project_id": "0e6b2f0c7c3b4a3f9c0d1e2f3a4b5c6d",
    "user_id": "9f8e7d6c5b4a39281706f5e4d3c2b1a0",
    "host": None,
    "node": None,
    "instance_type": "m1.small",
    "metadata": {"role": "web"},
    "created_at": "2026-01-02T03:04:05Z",
}
LIMITS: dict[str, Any] = {"memory_mb": 24576.0, "disk_gb": 400, "vcpu": 64.0}


def request_context() -> oslo_context.RequestContext:
    """The context of one request, the same in every recording."""
    return oslo_context.RequestContext(
        user_id=INSTANCE["user_id"],
        project_id=INSTANCE["project_id"],
        is_admin=False,
        roles=["member", "reader"],
        request_id="req-11111111-2222-4333-8444-555555555555",
        overwrite=False,
    )


def rpc_context() -> dict[str, Any]:
    """``request_context`` as services send it: oslo.context has the key ``user``; services add ``user_id`` and a trace."""
    extra = {
        "user_id": INSTANCE["user_id"],
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    return request_context().to_dict() | extra


def configuration(transport_url: str, **rabbit_options: Any) -> cfg.ConfigOpts:
    """A separate ConfigOpts with ``rabbit_options`` set in [oslo_messaging_rabbit]."""
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    # oslo.messaging registers these two groups on cfg.CONF only and then reads them from the transport's conf.
    conf.register_opts(tracing.oslo_messaging_tracing, group="oslo_messaging_tracing")
    conf.register_opts(metrics.oslo_messaging_metrics, group="oslo_messaging_metrics")
    # This call registers the rabbit driver's options; it does not connect.
    oslo_messaging.get_rpc_transport(conf, transport_url).cleanup()
    conf.set_override("transport_url", transport_url)
    for option, value in rabbit_options.items():
        conf.set_override(option, value, group="oslo_messaging_rabbit")
    return conf


@contextmanager
def rpc_client(conf: cfg.ConfigOpts, **kwargs: Any) -> Iterator[Any]:
    """A stock client of TOPIC at version 1.0; its connections are closed afterwards."""
    transport = oslo_messaging.get_rpc_transport(conf)
    target = oslo_messaging.Target(topic=TOPIC, **({"version": "1.0"} | kwargs.pop("target", {})))
    try:
        yield oslo_messaging.get_rpc_client(transport, target, timeout=RESPONSE_TIMEOUT_SECONDS, **kwargs)
    finally:
        transport.cleanup()


@contextmanager
def rpc_server(conf: cfg.ConfigOpts, endpoint: object) -> Iterator[None]:
    """Run a stock server of HOST with the ping endpoint."""
    # The dispatcher reads this option from cfg.CONF, whatever the transport's conf is.
    cfg.CONF.register_opts(dispatcher._dispatcher_opts)
    cfg.CONF.set_override("rpc_ping_enabled", True)
    transport = oslo_messaging.get_rpc_transport(conf)
    target = oslo_messaging.Target(topic=TOPIC, server=HOST)
    server = oslo_messaging.get_rpc_server(transport, target, [endpoint])
    server.start()
    try:
        yield
    finally:
        server.stop()
        server.wait()
        transport.cleanup()


@contextmanager
def notifier(conf: cfg.ConfigOpts, driver: str = "messagingv2") -> Iterator[Any]:
    """A stock Notifier of HOST on NOTIFICATION_TOPIC."""
    transport = oslo_messaging.get_notification_transport(conf)
    try:
        yield oslo_messaging.Notifier(transport, f"{TOPIC}.{HOST}", driver=driver, topics=[NOTIFICATION_TOPIC])
    finally:
        transport.cleanup()


@contextmanager
def notification_listener(conf: cfg.ConfigOpts, endpoint: object) -> Iterator[None]:
    """Run a stock listener on NOTIFICATION_TOPIC, for the priorities for which ``endpoint`` has a method."""
    transport = oslo_messaging.get_notification_transport(conf)
    targets = [oslo_messaging.Target(topic=NOTIFICATION_TOPIC)]
    listener = oslo_messaging.get_notification_listener(transport, targets, [endpoint])
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        listener.wait()
        transport.cleanup()


def versions(properties: Mapping[str, Any]) -> dict[str, str]:
    """The releases used for a recording; ``properties`` are the broker's server properties."""
    libraries = ("oslo.messaging", "oslo.context", "kombu", "amqp")
    return {name: version(name) for name in libraries} | {str(properties["product"]): str(properties["version"])}
