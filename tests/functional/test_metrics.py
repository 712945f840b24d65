# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes a worker: every metric is there, and means what the table says."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.functional.conftest import HOST, MakeWorker
from tests.support import stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.health import LISTENING, fetch, port_of
from tests.support.prometheus import prometheus
from tests.support.worker_process import NODE
from tracker_worker.service.metrics.table import HISTOGRAM, METRICS

ETC = Path(__file__).parents[2] / "etc"
ALERTS = ETC / "prometheus" / "alerts.yml"
HOSTS = {HOST: {"n1": NODE, "n2": NODE}}


def expressions() -> list[str]:
    """Every expression of the dashboard and of the alerts."""
    board = json.loads((ETC / "grafana" / "tracker-worker.json").read_text("utf-8"))
    of_board = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [expr.replace("$instance", ".*") for expr in of_board] + re.findall(
        r"^ +expr: (.*)$", ALERTS.read_text("utf-8"), re.MULTILINE
    )


def test_a_real_prometheus_has_every_metric_and_understands_dashboard_and_alerts(
    make_worker: MakeWorker, client: stock.Client, tmp_path: Path
) -> None:
    worker = make_worker(hosts=HOSTS, options={"health": {**LISTENING["health"], "project_series": 5}})
    worker.start()
    worker.wait_ready()
    client.call(HOST, "begin_resource_claim", instance=instance_dict(1, node="n1"))
    with prometheus(tmp_path, port_of(worker), rules=ALERTS) as server:
        wait_until(lambda: server.value("tracker_ready") == 1, "the first scrape")
        wait_until(lambda: server.value('tracker_claims_open{host="h1"}') == 1, "the claim")
        names = server.names()
        for metric in METRICS:
            assert (f"{metric.name}_bucket" if metric.kind == HISTOGRAM else metric.name) in names
        for expression in expressions():
            server.values(expression)  # Prometheus refuses what it cannot compute
            for name in re.findall(r"tracker_[a-z_]+", expression):
                assert name in names, expression
        assert server.value(f'up{{job="{"tracker-worker"}"}}') == 1
        worker.kill()
        wait_until(lambda: "TrackerWorkerDown" in server.alerts(), "the alert")


def test_the_rules_pass_promtool() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_metrics_say_what_get_node_says(make_worker: MakeWorker, client: stock.Client) -> None:
    worker = make_worker(hosts=HOSTS, options=LISTENING)
    worker.start()
    worker.wait_ready()
    client.call(HOST, "begin_resource_claim", instance=instance_dict(1, node="n1"))
    client.call(HOST, "begin_resource_claim", instance=instance_dict(2, **sized(vcpus=3), node="n2"))
    time.sleep(1.1)  # one look at the ledgers is for a second
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(fetch(port_of(worker), "/metrics").body.decode())
        for sample in family.samples
    }
    for node in ("n1", "n2"):
        view = client.call(HOST, "get_node", node=node)
        for resource, of_class in view["resources"].items():
            labels = sorted({"host": HOST, "node": node, "resource": resource}.items())
            assert samples["tracker_node_capacity", *labels] == of_class["capacity"]
            assert samples["tracker_node_used", *labels] == of_class["used"]
    assert samples["tracker_host_role", ("host", HOST), ("role", "active")] == 1
    assert samples["tracker_requests_total", ("method", "begin_resource_claim"), ("outcome", "ok")] == 2
