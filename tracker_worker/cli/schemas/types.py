# SPDX-License-Identifier: Apache-2.0
"""The JSON objects that only the command line prints. Those that the RPC API returns too are in ``client.types``.

Times are ISO 8601 texts in UTC. Keys are only ever added.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class ErrorFacts(TypedDict):
    """``code``: that of an error of the RPC API, or usage, configuration, timeout, no_worker, not_found, broker_unreachable,
    store_unavailable or failed. ``message``: one sentence. ``kwargs``: the facts that belong to the code."""

    code: str
    message: str
    kwargs: dict[str, Any]


class Error(TypedDict):
    """What is printed instead of the result when the command was refused or failed; the exit code is 1, or 2 for usage."""

    error: ErrorFacts


class Host(TypedDict):
    """A host of the database. ``active``: the worker that serves it, null if none does; ``lease_expires_at`` and
    ``last_seen_at``: '' for never; ``release``: that of the worker that registered it last."""

    host: str
    ledger_id: str
    queue: str
    active: str | None
    standbys: list[str]
    lease_expires_at: str
    last_seen_at: str
    release: str
    nodes: int
    instances: int


class Amounts(TypedDict):
    """The number of instances, and the sum of each resource class; ``resources``: those of custom classes, if there are any."""

    instances: int
    VCPU: int
    MEMORY_MB: int
    DISK_GB: int
    resources: NotRequired[dict[str, int]]


class ProjectUsage(Amounts):
    """What a project is charged; ``incoming`` and ``hold``: what it is charged beside that for moves, if anything."""

    incoming: NotRequired[Amounts]
    hold: NotRequired[Amounts]


class Sent(TypedDict):
    """The request was sent to every connected worker; nobody answers it."""

    sent: bool


class Message(TypedDict):
    """A notification as oslo.messaging writes it. Other programs may publish on the topic too, and add keys."""

    message_id: str
    publisher_id: str
    event_type: str
    priority: str
    timestamp: str
    payload: Any


class CloudEvent(TypedDict):
    """A notification on a topic of [notifications] cloudevents_topics."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    data: Any


class Revisions(TypedDict):
    """``current``: the revision of the database's schema, null if it has none; ``head``: the one that this release needs."""

    current: str | None
    head: str


class History(TypedDict):
    """A history of the database. ``predecessor``: the ledger id of the one before, null for the first."""

    ledger_id: str
    since: str
    reason: str
    predecessor: str | None


class Backlog(TypedDict):
    """How far a node's notifications are published on a topic. ``sequence``: the last number that was issued, ``cursor``: the
    last one that is published, ``rows``: how many wait, the oldest since ``oldest_at``. ``refused_sequence``: the number of one
    that the broker does not take. ``blocked_since``: since when the broker has taken no messages of the worker."""

    host: str
    node: str
    topic: str
    sequence: int
    cursor: int
    rows: int
    oldest_at: str | None
    oldest_age_seconds: int | None
    refused_sequence: int | None
    refused_reason: str | None
    blocked_since: str | None


class Replayed(TypedDict):
    """Notifications that were published again. ``missing``: pairs of the first and last number that the outbox does not have;
    the exit code is 1 if there are any."""

    host: str
    node: str
    topics: list[str]
    sent: int
    missing: list[tuple[int, int]]


class Skipped(TypedDict):
    """A notification that was set aside on these topics."""

    host: str
    node: str
    sequence: int
    topics: list[str]


class DeadLetter(TypedDict):
    """A cast that could not be done. ``kept_in``: queue or database; ``code`` and ``reason``: why; ``exchange`` and
    ``routing_key``: where it was first sent; ``call``: whether it is a call; ``problem``: why it cannot be read."""

    number: int
    id: str
    time: str | None
    kept_in: str
    code: str
    reason: str
    exchange: str
    routing_key: str
    method: str | None
    host: str | None
    node: str | None
    instance: str | None
    unique_id: str | None
    call: bool
    problem: str | None
    bytes: int


class WholeDeadLetter(DeadLetter):
    """A cast that could not be done, with its content. ``message``: what was decoded, else null, and the body is in ``text``
    or, if it is no text, in ``base64``."""

    properties: dict[str, Any]
    headers: dict[str, Any]
    message: dict[str, Any] | None
    text: NotRequired[str | None]
    base64: NotRequired[str | None]


class ReplayOutcome(DeadLetter):
    """What became of a message: ``replayed``, or ``kept`` for this reason; the exit code is 1 if one is kept."""

    replayed: bool
    kept: str | None


class Removed(TypedDict):
    """How many messages were removed."""

    removed: int


class DemoInvoice(TypedDict):
    """Project -> resource class -> hours; ``difference``: between periods and events, 0 if all is well."""

    projects: dict[str, dict[str, float]]
    difference: int


class Demo(TypedDict):
    """The result of the demo; the exit code is 1 if anything differs."""

    ledger_id: str
    invoice: DemoInvoice


class Finding(TypedDict):
    """What a check has found. ``level``: ok, warning or error; ``name``: what was checked; ``cure``: the command or the line of
    the configuration that cures it, '' if nothing is wrong."""

    level: str
    name: str
    message: str
    cure: str


class Shortfall(TypedDict):
    """A resource class that did not fit; ``reason``: why it could not be asked for whatever is free."""

    resource: str
    requested: int
    used: int
    limit: int
    reason: NotRequired[str]


class Who(TypedDict):
    """Who sent a request, as its context says; '' and an empty list for what is not known."""

    project_id: str
    user_id: str
    request_id: str
    roles: list[str]


class Decision(TypedDict):
    """What was decided. ``outcome``: begun, refused, conflict, invalid, not_permitted, finished, aborted, expired, updated,
    released, parked or moved; ``code``: that of the error, '' without one; ``figures``: the amounts by resource class;
    ``reason``: the error's text, or an operator's words; ``duration_ms``: from the receipt of the request to the decision, null
    for what nobody requested; ``sequence``: the number of the notification, null where there is none."""

    at: str
    host: str
    node: str
    instance_uuid: str
    method: str
    outcome: str
    code: str
    figures: dict[str, int]
    shortfalls: list[Shortfall]
    reason: str
    who: Who
    worker: str
    duration_ms: float | None
    sequence: int | None
