# SPDX-License-Identifier: Apache-2.0
"""The metrics of a worker: everything in the table, from the start on, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.builders import HOST, instance_dict, inventory, resources
from tests.support.engine import EngineHarness
from tests.support.metrics_page import PAGE, page
from tracker_worker.domain.life import OPEN, Life
from tracker_worker.history import Entry
from tracker_worker.service.loop.snapshot import NodeState, Snapshot
from tracker_worker.service.metrics.collector import scrape
from tracker_worker.service.metrics.outbox import OutboxFigures
from tracker_worker.service.metrics.table import BY_NAME, METRICS
from tracker_worker.service.page.status import MOST_NODES, status
from tracker_worker.tally import Histogram, Tally
from tracker_worker.threads import SYSTEM

ETC = Path(__file__).parents[3] / "etc"


def node(number: int = 1, *, host: str = HOST, project: str = "p", instances: int = 2) -> NodeState:
    charged = resources(vcpu=2 * instances)
    return NodeState(
        host=host,
        node=f"node-{number}",
        generation=1,
        life=Life(state=OPEN),
        inventory=inventory(),
        charged=charged,
        instances=instances,
        claims=1,
        moving=0,
        projects=((project, instances, charged),),
    )


class Figures:
    """A worker whose figures a test sets."""

    def __init__(self, nodes: Sequence[NodeState] = ()) -> None:
        self.tally = Tally()
        self.seen = Snapshot(taken_at=100.0, nodes=tuple(nodes), oldest={HOST: 90.0})
        self.hosts = [HOST]

    def build(self) -> tuple[str, ...]:
        return "1", "1.1", "0008"

    def is_ready(self) -> bool:
        return True

    def roles(self) -> Mapping[str, str]:
        return dict.fromkeys(self.hosts, "active")

    def snapshot(self) -> Snapshot:
        return self.seen

    def monotonic(self) -> float:
        return 101.5

    def counted(self) -> Mapping[str, int]:
        names = ("messages", "bytes", "connected", "reconnects")
        queues = ("unsettled", "publishing", "consuming")
        return {f"{queue}_{name}": 1 for queue in queues for name in names} | {"conflicts": 2, "locked_decisions": 1}

    def queues(self) -> Mapping[str, tuple[int, int]]:
        return {"undecided": (3, 700)}

    def is_blocked(self) -> bool:
        return False

    def outbox(self) -> Mapping[str, tuple[int, float]]:
        return {"notifications": (4, 2.5)}

    def log_records_dropped(self) -> int:
        return 7

    def recent(self) -> Sequence[Entry]:
        return []


def samples(figures: Figures, project_series: int = 0) -> dict[tuple[Any, ...], float]:
    text = scrape(figures, project_series=project_series).decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_of_the_table_is_scraped_before_anything_has_happened() -> None:
    text = scrape(Figures([node()]), project_series=1).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert family.samples, metric.name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    assert len(families) == len(METRICS)


def test_names_follow_the_conventions() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"tracker_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
    assert len(BY_NAME) == len(METRICS)


def test_the_page_is_made_of_the_table() -> None:
    assert PAGE.read_text("utf-8") == page(), (
        "write it again: python -m tests.support.metrics_page > doc/admin/metrics.md"
    )


def test_dashboard_and_alerts_have_only_names_of_the_table() -> None:
    for path in (ETC / "grafana" / "tracker-worker.json", ETC / "prometheus" / "alerts.yml"):
        text = path.read_text("utf-8")
        names = {name.removesuffix("_bucket") for name in re.findall(r"tracker_[a-z_]+", text)}
        assert names
        assert names <= BY_NAME.keys(), path
    board = json.loads((ETC / "grafana" / "tracker-worker.json").read_text("utf-8"))
    shown = json.dumps(board)
    assert [metric.name for metric in METRICS if metric.name not in shown] == []


def test_values_are_those_of_the_worker() -> None:
    found = samples(Figures([node()]))
    assert found["tracker_oldest_request_seconds", HOST] == 11.5
    assert found["tracker_claims_open", HOST] == 1
    assert found["tracker_node_used", "VCPU", HOST, "node-1"] == 4
    assert found["tracker_outbox_waiting", "notifications"] == 4
    assert found["tracker_queue_messages", "undecided"] == 3
    assert found["tracker_queue_bytes", "undecided"] == 700
    assert found["tracker_nodes", "open"] == 1
    assert found["tracker_nodes", "stale"] == 0
    assert found["tracker_conflicts_total",] == 2
    assert found["tracker_log_records_dropped_total",] == 7


def test_projects_with_most_instances_have_series_and_the_others_one() -> None:
    nodes = [node(number, project=f"p-{number}", instances=number) for number in range(1, 6)]
    found = samples(Figures(nodes), project_series=2)
    assert found["tracker_project_usage", "instances", "p-5"] == 5
    assert found["tracker_project_usage", "instances", "p-4"] == 4
    assert found["tracker_project_usage", "(others)", "instances"] == 6
    assert found["tracker_project_usage", "(others)", "VCPU"] == 12
    assert not [key for key in samples(Figures(nodes)) if key[0] == "tracker_project_usage"]


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    histogram.observe(0.1)
    histogram.observe(0.5, 3)
    histogram.observe(9.0)
    assert histogram.buckets() == [("0.1", 1.0), ("1.0", 4.0), ("+Inf", 5.0)]
    assert histogram.total == pytest.approx(10.6)


def test_the_page_shows_the_nodes_in_trouble_first_and_no_more_than_it_can() -> None:
    nodes = [node(number) for number in range(MOST_NODES + 5)]
    ill = NodeState(**{name: getattr(node(999), name) for name in NodeState.__struct_fields__} | {"life": Life()})
    document = status(Figures([*nodes, ill]), lambda: {"ready": True}, 0)
    assert document["nodes"][0]["node"] == "node-999"
    assert len(document["nodes"]) == MOST_NODES
    assert document["nodes_omitted"] == 6
    json.dumps(document)


def test_a_snapshot_has_what_is_committed_and_what_waits(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    snapshots = harness.engine.snapshots
    assert snapshots.look(10)
    (seen,) = snapshots.last.nodes
    assert (seen.host, seen.instances, seen.claims) == (HOST, 1, 1)
    assert seen.used()["VCPU"] == 2
    first = seen
    assert snapshots.look(10)
    assert snapshots.last.nodes[0] is first  # what has not changed is not made again


def test_the_outbox_figures_are_of_the_hosts_that_count_and_grow_older(harness: EngineHarness) -> None:
    figures = OutboxFigures(
        harness.store,
        topics=["notifications", "other"],
        hosts=lambda: {HOST},
        clock=harness.clock,
        died=harness.deaths.put,
        monotonic=lambda: 0.0,
        runtime=SYSTEM,
    )
    assert figures.waiting() == {"notifications": (0, 0.0), "other": (0, 0.0)}
    assert figures.step(0.0) == 5.0
    assert figures.waiting()["other"] == (0, 0.0)
