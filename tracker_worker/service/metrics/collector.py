# SPDX-License-Identifier: Apache-2.0
"""What a scrape gets: the metrics of the table with their values of this moment.

Everything is made of figures that are kept anyway. A series of which nothing has happened yet is there with 0.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker_worker import errors
from tracker_worker.domain.life import STATES
from tracker_worker.domain.resources import STANDARD
from tracker_worker.service.loop.snapshot import NodeState, Snapshot
from tracker_worker.service.metrics.table import AUDIT_OUTCOMES, BY_NAME, CONNECTIONS, COUNTER, HISTOGRAM, QUEUES, ROLES
from tracker_worker.service.requests.methods import METHODS
from tracker_worker.service.requests.refusals import UNEXPECTED
from tracker_worker.tally import OTHERS, STAGES, Histogram, Tally

Labels = tuple[str, ...]
Samples = Mapping[Labels, float]

_CODES = sorted(
    {each.code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.TrackerError)}
    - {errors.TrackerError.code}
    | {UNEXPECTED}
)


class Sources(Protocol):
    """Where the figures come from. Any thread may call any method; none waits for broker or database."""

    tally: Tally

    def build(self) -> Labels:
        """Release, version of the API, and revision of the schema."""
        ...

    def is_ready(self) -> bool: ...

    def roles(self) -> Mapping[str, str]:
        """Host -> one of ROLES."""
        ...

    def snapshot(self) -> Snapshot: ...

    def monotonic(self) -> float: ...

    def counted(self) -> Mapping[str, int]:
        """The counters by the names of ``counters.NAMES``."""
        ...

    def queues(self) -> Mapping[str, tuple[int, int]]:
        """What the process holds: name of the queue -> messages, and bytes of their bodies."""
        ...

    def is_blocked(self) -> bool:
        """Whether the broker has an alarm."""
        ...

    def outbox(self) -> Mapping[str, tuple[int, float]]:
        """Topic -> notifications that wait, and the age of the oldest one in seconds; of every topic."""
        ...

    def log_records_dropped(self) -> int: ...


class WorkerCollector(Collector):
    """The collector of one worker."""

    def __init__(self, sources: Sources, *, project_series: int) -> None:
        """``project_series``: the most projects that have series of their own; 0: projects have none."""
        self._sources = sources
        self._project_series = project_series

    def collect(self) -> Iterator[Metric]:
        """Every metric of the table, in its order."""
        found = self._values()
        for name, metric in BY_NAME.items():
            if metric.kind == HISTOGRAM:
                yield self._histogram(name)
            else:
                yield _family(name, found[name])

    def _histogram(self, name: str) -> Metric:
        metric, tally = BY_NAME[name], self._sources.tally
        family = HistogramMetricFamily(name, metric.help, labels=metric.labels)
        histograms: Mapping[Labels, Histogram] = (
            {(stage,): tally.stages[stage] for stage in STAGES} if metric.labels else {(): tally.batch_size}
        )
        for labels, histogram in histograms.items():
            family.add_metric(labels, histogram.buckets(), histogram.total)
        return family

    def _values(self) -> dict[str, Samples]:
        sources, tally = self._sources, self._sources.tally
        snapshot, counted, outbox, roles = sources.snapshot(), sources.counted(), sources.outbox(), sources.roles()
        age, queues = sources.monotonic(), sources.queues()
        requests: dict[Labels, float] = {(method, "ok"): 0 for method in METHODS}
        requests.update({(method, outcome): number for (method, outcome), number in tally.requests.copy().items()})
        open_claims: Count[str] = Count(dict.fromkeys(roles, 0))
        for node in snapshot.nodes:
            open_claims[node.host] += node.claims
        states: Count[str] = Count(dict.fromkeys(STATES, 0))
        states.update(node.life.state for node in snapshot.nodes)
        return {
            "tracker_build_info": {sources.build(): 1},
            "tracker_ready": _one(sources.is_ready()),
            "tracker_host_role": {(host, role): float(role == has) for host, has in roles.items() for role in ROLES},
            "tracker_requests_total": requests,
            "tracker_refusals_total": _labelled({**dict.fromkeys(STANDARD, 0), **tally.refusals}),
            "tracker_claims_open": _labelled(open_claims),
            "tracker_claims_expired_total": _one(tally.expired),
            "tracker_oldest_request_seconds": {
                (host,): max(0.0, age - snapshot.oldest[host]) if host in snapshot.oldest else 0.0 for host in roles
            },
            "tracker_outbox_waiting": {(topic,): waiting for topic, (waiting, _) in outbox.items()},
            "tracker_outbox_oldest_seconds": {(topic,): seconds for topic, (_, seconds) in outbox.items()},
            "tracker_dead_letters_total": _labelled({**dict.fromkeys(_CODES, 0), **tally.dead_letters}),
            "tracker_inbox_hits_total": _one(tally.copies),
            "tracker_conflicts_total": _one(counted["conflicts"]),
            "tracker_locked_decisions_total": _one(counted["locked_decisions"]),
            "tracker_reconnects_total": _connections(counted, "reconnects"),
            "tracker_broker_connected": _connections(counted, "connected"),
            "tracker_broker_alarm": _one(sources.is_blocked()),
            "tracker_audits_total": _labelled({**dict.fromkeys(AUDIT_OUTCOMES, 0), **tally.audits}),
            "tracker_drift_total": _one(tally.drift),
            "tracker_nodes": _labelled(states),
            "tracker_node_capacity": _of_nodes(snapshot.nodes, NodeState.capacity),
            "tracker_node_used": _of_nodes(snapshot.nodes, NodeState.used),
            "tracker_project_usage": self._projects(snapshot.nodes) if self._project_series else {},
            "tracker_queue_messages": {(queue,): queues.get(queue, (0, 0))[0] for queue in QUEUES},
            "tracker_queue_bytes": {(queue,): queues.get(queue, (0, 0))[1] for queue in QUEUES},
            "tracker_log_records_dropped_total": _one(sources.log_records_dropped()),
        }

    def _projects(self, nodes: Iterable[NodeState]) -> Samples:
        """The usage of the projects with the most instances; the others are summed up."""
        instances: Count[str] = Count()
        for node in nodes:
            for project, number, _ in node.projects:
                instances[project] += number
        shown = {project for project, _ in instances.most_common(self._project_series)}
        sums: Count[Labels] = Count()
        for node in nodes:
            for project, number, resources in node.projects:
                label = project if project in shown else OTHERS
                sums[label, "instances"] += number
                for name, amount in resources.to_dict().items():
                    sums[label, name] += amount
        return sums


def scrape(sources: Sources, *, project_series: int) -> bytes:
    """What a scrape gets, in Prometheus' text format (``prometheus_client.CONTENT_TYPE_LATEST``). Any thread."""
    registry = CollectorRegistry()
    registry.register(WorkerCollector(sources, project_series=project_series))
    return generate_latest(registry)


def _family(name: str, samples: Samples) -> Metric:
    metric = BY_NAME[name]
    make: Callable[..., CounterMetricFamily | GaugeMetricFamily] = (
        CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
    )
    family = make(name, metric.help, labels=metric.labels)
    for labels, value in samples.items():
        family.add_metric(labels, value)
    return family


def _one(value: float) -> Samples:
    return {(): float(value)}


def _labelled(values: Mapping[str, float]) -> Samples:
    return {(label,): value for label, value in dict(values).items()}


def _connections(counted: Mapping[str, int], what: str) -> Samples:
    return {(name,): counted[f"{name}_{what}"] for name in CONNECTIONS}


def _of_nodes(nodes: Iterable[NodeState], figures: Callable[[NodeState], Mapping[str, int]]) -> Samples:
    return {(node.host, node.node, resource): amount for node in nodes for resource, amount in figures(node).items()}
