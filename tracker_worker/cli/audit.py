# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker audit``: ask workers to read inventories and expire overdue claims now."""

from __future__ import annotations

import click

from tracker_worker.cli.context import Settings, example
from tracker_worker.cli.node import NODE_COLUMNS, node_rows
from tracker_worker.cli.output import JSON, show_json, show_table, table_options


@click.command(epilog=example("audit --host h1"))
@click.option("--host", help="Audit the nodes of this host, wait, and show them after the audit.")
@click.option(
    "--all", "everywhere", is_flag=True, help="Ask every connected worker to audit its hosts, without waiting."
)
@click.option(
    "--wait",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="With --host: wait this long for the answer.  [default: [DEFAULT] rpc_response_timeout]",
)
@table_options
@click.pass_obj
def audit(settings: Settings, host: str | None, everywhere: bool, wait: int | None, style: str) -> None:
    """Ask workers to read inventories and expire claims now.

    The request goes over the broker. Only overdue claims expire. Either --host or --all is required. A worker audits
    its hosts by itself every [tracker] audit_interval_seconds.
    """
    if everywhere == (host is not None):
        raise click.UsageError("Give either --host HOST or --all.")
    from tracker_worker.cli.rpc import audit_everywhere, request_context, scheduler

    if host is None:
        audit_everywhere(settings)
        if style == JSON:
            show_json({"sent": True})
        else:
            click.echo("Every connected worker has been asked to audit its hosts.")
        return
    with scheduler(settings, host, wait) as api:
        views = api.update_available_resource(request_context(), host)
    if style == JSON:
        show_json(views)
    else:
        show_table(NODE_COLUMNS, node_rows(views), empty=f"Host {host} has no nodes.")
