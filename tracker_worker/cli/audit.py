# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker audit``: have inventories read and overdue claims expired now."""

from __future__ import annotations

import click

from tracker_worker.cli.context import Settings
from tracker_worker.cli.node import NODE_COLUMNS, node_rows
from tracker_worker.cli.output import JSON, format_option, show_json, show_table
from tracker_worker.cli.rpc import audit_everywhere, request_context, scheduler


@click.command()
@click.option("--host", help="Audit this host's nodes and show them as they are then.")
@click.option("--all", "everywhere", is_flag=True, help="Have every worker audit its hosts, without waiting for it.")
@click.option(
    "--wait",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="How long to wait for the host's answer  [default: [DEFAULT] rpc_response_timeout]",
)
@format_option
@click.pass_obj
def audit(settings: Settings, host: str | None, everywhere: bool, wait: int | None, style: str) -> None:
    """Have inventories read and claims expired now.

    Asks the workers over the broker. They do so by themselves every [tracker] audit_interval_seconds.
    """
    if everywhere == (host is not None):
        raise click.UsageError("Give either --host HOST or --all.")
    if host is None:
        audit_everywhere(settings)
        if style == JSON:
            show_json({"sent": True})
        else:
            click.echo("Every worker that is connected has been told to audit its hosts.")
        return
    with scheduler(settings, host, wait) as api:
        views = api.update_available_resource(request_context(), host)
    if style == JSON:
        show_json(views)
    else:
        show_table(NODE_COLUMNS, node_rows(views), empty=f"Host {host} has no nodes.")
