# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker usage``: the usage of each project, read from the store."""

from __future__ import annotations

import click

from tracker_worker.cli.context import Settings, example
from tracker_worker.cli.output import JSON, others, show_json, show_table, table_options
from tracker_worker.cli.table import column, figure, prose
from tracker_worker.domain.resources import STANDARD


@click.command(epilog=example("usage --host h1"))
@click.option("--host", help="Count only what is charged on this host.")
@click.option("--project", help="Show only this project.")
@table_options
@click.pass_obj
def usage(settings: Settings, host: str | None, project: str | None, style: str) -> None:
    """Show how much each project is charged.

    The figures are the number of instances, VCPU in virtual CPUs, MEMORY_MB in MB and DISK_GB in GB; Others are the
    custom classes. Claims that have not ended count, and so do stopped instances. Read from the database; no worker needs
    to run.
    """
    from tracker_worker.cli.ledgers import load_hosts, opened_store
    from tracker_worker.domain.views import usage_view

    with opened_store(settings.load(messaging=False)) as store:
        ledgers = [ledger for loaded in load_hosts(store, host) for ledger in loaded]
    total = dict(sorted(usage_view(ledgers, project).items()))
    if style == JSON:
        show_json(total)
        return
    show_table(
        (column("Project"), figure("Instances", 2), *(figure(klass, 1) for klass in STANDARD), prose("Others", 3)),
        (
            (
                project_id or "(none)",
                held["instances"],
                *(held[klass] for klass in STANDARD),
                others(held.get("resources", {})),
            )
            for project_id, held in total.items()
        ),
        empty="No project is charged anything." if project is None else f"Project {project} is charged nothing.",
    )
