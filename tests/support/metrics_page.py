# SPDX-License-Identifier: Apache-2.0
"""The page doc/admin/metrics.md, made of the table of metrics: ``python -m tests.support.metrics_page`` prints it."""

from __future__ import annotations

from pathlib import Path

from tracker_worker.service.metrics.table import METRICS

PAGE = Path(__file__).parents[2] / "doc" / "admin" / "metrics.md"
_HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
# Metrics

What `/metrics` of a worker has, made from `tracker_worker/service/metrics/table.py` by
`python -m tests.support.metrics_page`; a test compares. A series of which nothing has happened yet is there with 0. See
[metrics, dashboard, alerts](operate.md#metrics-dashboard-alerts).

| name | kind | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |\n"
        for metric in METRICS
    ]
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")
