# SPDX-License-Identifier: Apache-2.0
"""Every error that can cross the wire, and the error that ends a start.

All errors of this module that cross the wire derive from ``TrackerError``, and each has a stable ``code``; a code is never
reused. The caller's process rebuilds an error as ``cls(*args, **kwargs)`` (oslo.messaging's
``deserialize_remote_exception``), so every class takes its facts as keyword arguments, keeps them in ``kwargs``, and
accepts facts that a newer worker adds.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tracker_worker.text import printable


class TrackerError(Exception):
    """The root of the errors that a caller may get. ``kwargs`` holds the facts, made of JSON types. The text is printable and
    has at most 1000 characters, whatever it quotes."""

    code: ClassVar[str] = "tracker_error"
    retryable: ClassVar[bool] = False
    template: ClassVar[str] = "{code}"

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        self.kwargs = kwargs
        super().__init__(printable(message if message is not None else self._message(kwargs)))

    def _message(self, kwargs: dict[str, Any]) -> str:
        try:
            return self.template.format(code=self.code, **kwargs)
        except KeyError:
            return f"{self.code}: {kwargs}"


class ComputeResourcesUnavailable(TrackerError):
    """The claim does not fit. Facts: ``shortfalls``, every resource that does not fit: resource, requested, used, limit,
    and reason, if it could not be asked for whatever is free."""

    code = "insufficient_resources"

    def _message(self, kwargs: dict[str, Any]) -> str:
        lacks = ", ".join(
            f"{s['resource']}: requested {s['requested']}, used {s['used']}, limit {s['limit']}"
            + (f" ({s['reason']})" if s.get("reason") else "")
            for s in kwargs.get("shortfalls", ())
        )
        return f"Insufficient resources: {lacks}" if lacks else "Insufficient resources"


class ClaimConflict(TrackerError):
    """The instance is charged already with another vector or on another node, was reported deleted, or brings the claim_id of
    another claim. Facts: instance_uuid; node, the one that is charged, or else the one that is asked; reason."""

    code = "claim_conflict"
    template = "Instance {instance_uuid} cannot be claimed: {reason}"


class MoveNotFound(TrackerError):
    """The host knows no move of this id, and was not told enough of it, or it is too old. Facts: move_id, host."""

    code = "move_not_found"
    template = "Host {host} knows no move {move_id}"


class InvalidInput(TrackerError):
    """An argument is wrong. Facts: ``field``, a path such as ``instance.memory_mb``, and ``reason``."""

    code = "invalid_input"
    template = "{field}: {reason}"


class NodeNotFound(TrackerError):
    """The host has no such node. Facts: host; node, or None: the request names none, and the host has no node that counts."""

    code = "node_not_found"
    template = "Host {host} has no node {node}"

    def _message(self, kwargs: dict[str, Any]) -> str:
        return super()._message(
            kwargs if kwargs.get("node", "") is not None else {**kwargs, "node": "for this request"}
        )


class InstanceElsewhere(TrackerError):
    """The request names another node than the one that is charged for the instance. Facts: instance_uuid, and the host and node
    that are charged."""

    code = "instance_elsewhere"
    template = "Instance {instance_uuid} is on node {node} of host {host}"


class NodeUnavailable(TrackerError):
    """The node takes no claims now, because too little is known of it. Facts: host, node, state, reason."""

    code = "node_unavailable"
    template = "Node {node} of host {host} is {state} and takes no claims: {reason}"


class NodeDraining(TrackerError):
    """An operator lets the node take no further claims. Facts: host, node, reason."""

    code = "node_draining"
    template = "Node {node} of host {host} is draining: {reason}"


class NodeBusy(TrackerError):
    """The node is charged for instances, so that it cannot be retired, renamed away or forgotten. Facts: host, node,
    instances, their uuids."""

    code = "node_busy"

    def _message(self, kwargs: dict[str, Any]) -> str:
        instances = kwargs.get("instances", ())
        return f"Node {kwargs.get('node')} of host {kwargs.get('host')} is charged for {', '.join(instances)}"


class HostNotServed(TrackerError):
    """A request on the shared topic names a host that this worker does not serve. Facts: host."""

    code = "host_not_served"
    template = "This worker does not serve host {host}"


class StoreUnavailable(TrackerError):
    """The worker cannot reach the ledger now, and nothing was changed as far as it knows. The request may be sent again."""

    code = "store_unavailable"
    retryable = True
    template = "The store is unavailable: {reason}"


class InventoryUnavailable(TrackerError):
    """A called audit ended before the inventory driver had answered. The request may be sent again. Facts: host, reason."""

    code = "inventory_unavailable"
    retryable = True
    template = "The inventory of host {host} is not known: {reason}"


class AnswerTooLarge(TrackerError):
    """The answer has more than ``[bus] max_answer_bytes``. Nothing was changed. Facts: method; limit; bytes, how much of the
    answer was looked at: the whole of it has more; how, what to ask for instead."""

    code = "answer_too_large"
    template = "The answer to {method} is larger than {limit} bytes: {how}"


class NotPermitted(TrackerError):
    """The policy of the worker does not let the sender call the method. Nothing was changed. Facts: rule, the rule of
    oslo.policy that the sender does not pass; method."""

    code = "not_permitted"
    template = "The rule {rule} does not permit {method}"


class ConfigurationError(Exception):
    """The error that ends a start: one sentence that says what the operator must change. It never crosses the wire."""


class DatabaseUnavailable(ConfigurationError):
    """The database cannot be reached or used as it is. It never crosses the wire."""
