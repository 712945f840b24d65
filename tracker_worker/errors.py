# SPDX-License-Identifier: Apache-2.0
"""Every error that can cross the wire, and those that end a start.

One root, one stable ``code`` each; a code is never reused. An error is rebuilt in the caller's process as
``cls(*args, **kwargs)`` (oslo.messaging's ``deserialize_remote_exception``), so every class takes its facts as keyword
arguments, keeps them in ``kwargs``, and accepts facts that a newer worker adds.
"""

from __future__ import annotations

from typing import Any, ClassVar


class TrackerError(Exception):
    """Root of what a caller may get. ``kwargs`` holds the facts, JSON types only."""

    code: ClassVar[str] = "tracker_error"
    retryable: ClassVar[bool] = False
    template: ClassVar[str] = "{code}"

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        self.kwargs = kwargs
        super().__init__(message if message is not None else self._message(kwargs))

    def _message(self, kwargs: dict[str, Any]) -> str:
        try:
            return self.template.format(code=self.code, **kwargs)
        except KeyError:
            return f"{self.code}: {kwargs}"


class ComputeResourcesUnavailable(TrackerError):
    """The claim does not fit. ``shortfalls``: every resource that lacks, each with resource, requested, used, limit."""

    code = "insufficient_resources"

    def _message(self, kwargs: dict[str, Any]) -> str:
        lacks = ", ".join(
            f"{s['resource']}: requested {s['requested']}, used {s['used']}, limit {s['limit']}"
            for s in kwargs.get("shortfalls", ())
        )
        return f"Insufficient resources: {lacks}" if lacks else "Insufficient resources"


class ClaimConflict(TrackerError):
    """The instance has another claim, with another vector or on another node. Facts: instance_uuid, node, reason."""

    code = "claim_conflict"
    template = "Instance {instance_uuid} has a claim on node {node}: {reason}"


class InvalidInput(TrackerError):
    """An argument is wrong. Facts: ``field``, a path such as ``instance.memory_mb``, and ``reason``."""

    code = "invalid_input"
    template = "{field}: {reason}"


class NodeNotFound(TrackerError):
    """The host has no such node. Facts: host, node."""

    code = "node_not_found"
    template = "Host {host} has no node {node}"


class HostNotServed(TrackerError):
    """A request on the shared topic for a host that this worker does not serve. Facts: host."""

    code = "host_not_served"
    template = "This worker does not serve host {host}"


class StoreUnavailable(TrackerError):
    """The ledger cannot be reached now; nothing was changed as far as is known. Safe to send again."""

    code = "store_unavailable"
    retryable = True
    template = "The store is unavailable: {reason}"


class ConfigurationError(Exception):
    """What ends a start: one sentence for the operator that says what to change. Never crosses the wire."""
