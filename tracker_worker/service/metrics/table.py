# SPDX-License-Identifier: Apache-2.0
"""Every metric of a worker: its name, kind, unit, labels and meaning. The scrape, the dashboard, the page in doc/admin and the
tests are made from this table.

Names and units follow https://prometheus.io/docs/practices/naming/: a counter ends with ``_total``, a time is in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"


class Metric(msgspec.Struct, frozen=True):
    """``labels`` is empty for a metric with one series."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


METRICS: Sequence[Metric] = (
    Metric(
        "tracker_build_info",
        GAUGE,
        "Always 1: the release of the worker, the version of its API, and the revision of its schema.",
        ("version", "api", "schema"),
    ),
    Metric("tracker_ready", GAUGE, "1 if /readyz answers 200, else 0."),
    Metric(
        "tracker_host_role",
        GAUGE,
        "1 for the role that this worker has for the host, else 0: active, standby, or none.",
        ("host", "role"),
    ),
    Metric(
        "tracker_requests_total",
        COUNTER,
        "Requests that have ended, by method and outcome: ok, the code of the error, or expired where the caller had stopped "
        "waiting. A called audit is ok once it has begun. Copies and the worker's own probes are not in it.",
        ("method", "outcome"),
    ),
    Metric(
        "tracker_request_seconds",
        HISTOGRAM,
        "Seconds from the receipt of a request by the worker until it was taken (queued), decided, committed, and its answer "
        "was on its way (answered).",
        ("stage",),
    ),
    Metric("tracker_batch_size", HISTOGRAM, "Requests and chores that were committed together."),
    Metric(
        "tracker_refusals_total",
        COUNTER,
        "Claims and moves that were refused because of a resource class; one that lacks two classes counts for both.",
        ("resource",),
    ),
    Metric("tracker_claims_open", GAUGE, "Claims that are begun and not finished, aborted or expired.", ("host",)),
    Metric("tracker_claims_expired_total", COUNTER, "Claims that expired."),
    Metric(
        "tracker_oldest_request_seconds",
        GAUGE,
        "For how long the oldest request of the host that is not decided has been in the worker. What waits in the broker "
        "is not in it.",
        ("host",),
    ),
    Metric(
        "tracker_outbox_waiting",
        GAUGE,
        "Notifications of the hosts whose chores this worker does that the topic has not confirmed.",
        ("topic",),
    ),
    Metric("tracker_outbox_oldest_seconds", GAUGE, "The age of the oldest of these; 0 without one.", ("topic",)),
    Metric("tracker_dead_letters_total", COUNTER, "Casts that were parked, by the code of the error.", ("code",)),
    Metric("tracker_inbox_hits_total", COUNTER, "Copies of requests that were answered with the recorded answer."),
    Metric("tracker_conflicts_total", COUNTER, "Commits that another worker's commit made worthless."),
    Metric("tracker_locked_decisions_total", COUNTER, "Batches that were decided under the lock of their host."),
    Metric(
        "tracker_reconnects_total",
        COUNTER,
        "How often a connection to the broker was opened again: consuming or publishing.",
        ("connection",),
    ),
    Metric("tracker_broker_connected", GAUGE, "1 while the connection to the broker is open, else 0.", ("connection",)),
    Metric("tracker_broker_alarm", GAUGE, "1 while the broker takes no messages because of an alarm, else 0."),
    Metric(
        "tracker_audits_total", COUNTER, "Reports of inventory drivers, of nodes and of lists of nodes.", ("outcome",)
    ),
    Metric("tracker_drift_total", COUNTER, "Differences that were found between a ledger and what is charged or runs."),
    Metric("tracker_nodes", GAUGE, "Nodes of the hosts whose chores this worker does.", ("state",)),
    Metric(
        "tracker_node_capacity",
        GAUGE,
        "What the node can be charged of a resource class: its total without the reserve, times the allocation ratio.",
        ("host", "node", "resource"),
    ),
    Metric(
        "tracker_node_used",
        GAUGE,
        "What the node is charged of a resource class; the reserve is not in it.",
        ("host", "node", "resource"),
    ),
    Metric(
        "tracker_project_usage",
        GAUGE,
        "What a project is charged on the hosts whose chores this worker does, with the resource 'instances' for their "
        "number. [health] project_series bounds the number of projects.",
        ("project", "resource"),
    ),
    Metric(
        "tracker_queue_messages",
        GAUGE,
        "Messages that the process holds: deliveries that are not settled (unsettled), and of these what waits for its host to "
        "be looked at (unadmitted), for its decision (undecided) and for the store (refused_dead_letters); and what waits for "
        "the broker (publishing).",
        ("queue",),
    ),
    Metric("tracker_queue_bytes", GAUGE, "The bytes of these messages' bodies.", ("queue",)),
    Metric(
        "tracker_log_records_dropped_total", COUNTER, "Log records that were dropped because the log is written slowly."
    ),
)

BY_NAME = {metric.name: metric for metric in METRICS}
QUEUES = ("unsettled", "unadmitted", "undecided", "refused_dead_letters", "publishing")
CONNECTIONS = ("consuming", "publishing")
ROLES = ("active", "standby", "none")
AUDIT_OUTCOMES = ("ok", "failed")
