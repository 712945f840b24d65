# SPDX-License-Identifier: Apache-2.0
"""The run of ``tracker-worker demo``: the whole system, and a comparison of billing with the ledger."""

from __future__ import annotations

import tracker_worker.cli.threading_backend  # noqa: F401 must precede oslo.messaging

# isort: split
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tracker_worker.bus.settings import address
from tracker_worker.cli.context import Settings, start_logging
from tracker_worker.cli.demo.billing import Billing, Charge, owed_seconds, totals, used_seconds
from tracker_worker.cli.demo.cloud import BrokerCloud, Cloud, MemoryCloud
from tracker_worker.cli.demo.invoice import Invoice
from tracker_worker.cli.demo.scheduler import LOST_BUILD_SECONDS, Scheduler
from tracker_worker.cli.demo.tables import AGREES, DIFFERS, DemoTable
from tracker_worker.cli.output import JSON, show_json
from tracker_worker.client.api import TrackerAPI
from tracker_worker.conf.policy import read_policy
from tracker_worker.domain.resources import CLASSES, Resources

_THREADS = 8
_BILLING_SECONDS = 30
_SEED = 2012
_SUMS = ("instances", "VCPU", "MEMORY_MB", "DISK_GB")
_CONTEXT = {"project_id": "admin", "user_id": "demo"}


def run(settings: Settings, transport_url: str | None, hosts: int, instances: int, style: str) -> bool:
    """Run the demo as its options say, and print what it shows. Return whether everything agrees.

    Raises ConfigurationError, TrackerError, CommandFailed.
    """
    console = Console(stderr=style == JSON)
    conf = settings.load()
    conf.set_override(
        "default_log_levels",
        ["tracker_worker=ERROR", "alembic=WARN", "amqp=WARN", "oslo.messaging=ERROR", "oslo_messaging=ERROR"],
    )
    start_logging(conf)
    with tempfile.TemporaryDirectory(prefix="tracker-demo-") as name:
        cloud: Cloud
        if transport_url is None:
            cloud = MemoryCloud(settings, Path(name), hosts)
        else:
            cloud = BrokerCloud(settings, Path(name), hosts, transport_url)
        try:
            agree, invoice = _run(console, cloud, instances, transport_url, read_policy(conf).reserved)
        finally:
            cloud.stop()
    if style == JSON:
        projects = {"projects": invoice.hours, "difference": invoice.difference}
        show_json({"ledger_id": cloud.ledger_id, "invoice": projects})
    return agree


def _run(
    console: Console, cloud: Cloud, instances: int, transport_url: str | None, reserved: Resources
) -> tuple[bool, Invoice]:
    """Whether everything agrees, and the invoice."""
    billing = Billing()
    where = "in memory" if transport_url is None else "over " + address(transport_url)
    console.print(f"[bold]tracker-worker[/bold]: two workers, {len(cloud.hosts)} hosts, {where}; the ledger is SQLite")
    api = cloud.start(billing.receive)
    console.print(f"ledger {cloud.ledger_id}", highlight=False)
    scheduler = Scheduler(api, cloud.hosts, _SEED)
    began = time.monotonic()
    _place(console, scheduler, instances)
    elapsed = time.monotonic() - began
    time.sleep(LOST_BUILD_SECONDS)  # now every claim of a lost build is overdue, and the audit of its host expires it
    views = [view for host in cloud.hosts for view in api.update_available_resource(_CONTEXT, host)]
    complete = billing.wait_for({(view["host"], view["node"]): view["sequence"] for view in views}, _BILLING_SECONDS)
    _show_events(console, scheduler, billing, instances, elapsed)
    nodes_agree = _show_nodes(console, views, billing, reserved)
    projects_agree = _show_projects(console, _usage(api, cloud.hosts), billing)
    bills_agree = _show_bill(console, scheduler.mover.owed, billing)
    agree = _verdict(console, complete, nodes_agree and projects_agree, bills_agree, billing)
    invoice = Invoice(console, billing, api)
    invoice.show()
    return agree and not invoice.difference, invoice


def _place(console: Console, scheduler: Scheduler, instances: int) -> None:
    columns = (TextColumn("placing instances"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console) as progress,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="demo-scheduler") as pool,
    ):
        task = progress.add_task("placing", total=instances)
        for done in as_completed([pool.submit(scheduler.place) for _ in range(instances)]):
            done.result()
            progress.advance(task)


def _usage(api: TrackerAPI, hosts: Sequence[str]) -> dict[str, dict[str, int]]:
    """The usage by project over all hosts, from the ledgers."""
    total: dict[str, dict[str, int]] = {}
    for host in hosts:
        for project, usage in api.get_usage(_CONTEXT, host).items():
            sums = total.setdefault(project, dict.fromkeys(_SUMS, 0))
            for key in _SUMS:
                sums[key] += usage[key]
    return total


def _show_events(console: Console, scheduler: Scheduler, billing: Billing, instances: int, elapsed: float) -> None:
    results = ", ".join(f"{count} {result}" for result, count in scheduler.counts.most_common())
    console.print(f"{instances} instances in {elapsed:.1f} s: {results}")
    events = ", ".join(f"{count} {kind.removeprefix('tracker.')}" for kind, count in billing.events.most_common())
    total = sum(billing.events.values())
    console.print(f"{total} notifications: {events}")


def _show_nodes(console: Console, views: Sequence[Mapping[str, Any]], billing: Billing, reserved: Resources) -> bool:
    """Print the nodes; return whether billing agrees. The ledger's used includes the reserve, which billing's sums do not."""
    figures = ("inst.", "vcpus", "memory MB", "disk GB", "seq.")
    shown = DemoTable("Nodes: used / total", "host and node", figures, last="billing")
    charged = billing.charged()
    agree = True
    for view in sorted(views, key=lambda view: (view["host"], view["node"])):
        billed = totals(charge for charge in charged if charge.place == (view["host"], view["node"]))
        same = billed["instances"] == view["running_vms"]
        cells = []
        for klass in CLASSES:
            same = same and billed[klass.name] + reserved[klass.name] == view[klass.used]
            cells.append(f"{view[klass.used]}/{view[klass.total]}")
        agree = agree and same
        name = f"{view['host']} {view['node']}"
        shown.add_row(name, str(view["running_vms"]), *cells, str(view["sequence"]), _agrees(same))
    shown.show(console)
    return agree


def _show_projects(console: Console, usage: dict[str, dict[str, int]], billing: Billing) -> bool:
    """Print the usage of projects; return whether billing agrees."""
    figures = ("instances", "vcpus", "memory MB", "disk GB")
    shown = DemoTable("Projects: the ledger's usage", "project", figures, last="billing")
    charged = billing.charged()
    billed = {
        project: totals(charge for charge in charged if charge.project == project)
        for project in {charge.project for charge in charged}
    }
    for project in sorted(usage.keys() | billed.keys()):
        sums = usage.get(project, {})
        same = sums == billed.get(project)
        cells = [str(sums.get(key, 0)) for key in _SUMS]
        shown.add_row(project, *cells, _agrees(same))
    shown.show(console)
    return usage == billed


def _show_bill(console: Console, owed: Mapping[str, Sequence[Charge]], billing: Billing) -> bool:
    """Print what projects owe for the instances that moved, from their claims until the last move; return whether billing
    agrees with what the scheduler was answered."""
    until = max((datetime.fromisoformat(charges[-1].at) for charges in owed.values()), default=billing.last_at)
    known = owed_seconds(owed.values(), until)
    begin = billing.first_at - timedelta(seconds=1)  # what was over within a second is billed too: as nothing
    billed = used_seconds(billing.read(lambda books: books.usage(begin, until)), owed.keys())
    figures = ("vcpu s", "memory MB s", "disk GB s")
    shown = DemoTable("Projects: the bill of the moved instances", "project", figures, last="scheduler")
    for project in sorted(known.keys() | billed.keys()):
        sums = billed.get(project, Counter())
        cells = [str(sums.get(klass.name, 0)) for klass in CLASSES]
        shown.add_row(project, *cells, _agrees(known.get(project) == sums))
    shown.show(console)
    return known == billed


def _agrees(same: bool) -> str:
    return AGREES if same else DIFFERS


def _verdict(console: Console, complete: bool, sums_agree: bool, bills_agree: bool, billing: Billing) -> bool:
    """Print the result; return whether no notification is missing and billing agrees."""
    missing = billing.read(lambda books: books.missing())
    gapless = complete and not missing
    console.print(
        "[green]Sequence numbers are gapless on every node[/green]"
        if gapless
        else f"[red]Notifications are missing: {missing or 'the last ones have not arrived'}[/red]"
    )
    console.print(
        "[green]The sums that billing makes from notifications alone equal the ledger[/green]"
        if sums_agree
        else "[red]The sums that billing makes from notifications alone differ from the ledger[/red]"
    )
    console.print(
        "[green]The bill of the moved instances is what the scheduler knows: difference 0 s[/green]"
        if bills_agree
        else "[red]The bill of the moved instances differs from what the scheduler knows[/red]"
    )
    return gapless and sums_agree and bills_agree
