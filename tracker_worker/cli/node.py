# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker node``: list and show nodes, read from the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from tracker_worker.cli.context import CommandFailed, Commands, Settings
from tracker_worker.cli.output import JSON, format_option, show_fields, show_json, show_table
from tracker_worker.domain.resources import CLASSES

NODE_COLUMNS = (
    "Host",
    "Node",
    "State",
    *(klass.name for klass in CLASSES),
    "Instances",
    "Generation",
    "Sequence",
)


@click.group(cls=Commands)
def node() -> None:
    """List and show nodes: their inventories and their usage.

    Read from the database; no worker needs to run.
    """


@node.command("list")
@click.option("--host", help="List only the nodes of this host.")
@format_option
@click.pass_obj
def list_(settings: Settings, host: str | None, style: str) -> None:
    """List nodes with their usage and their inventory.

    Amounts are used/total: VCPU in virtual CPUs, MEMORY_MB in MB, DISK_GB in GB. Used includes the reserve of [tracker]
    reserved_host_*. A disabled node has no total.
    """
    views = read_nodes(settings, host)
    if style == JSON:
        show_json(views)
    else:
        show_table(NODE_COLUMNS, node_rows(views), empty="There are no nodes.")


@node.command()
@click.argument("node", metavar="NODE")
@click.option("--host", help="The node's host; required when several hosts have a node of this name.")
@format_option
@click.pass_obj
def show(settings: Settings, node: str, host: str | None, style: str) -> None:
    """Show everything that the database has about one node."""
    found = [view for view in read_nodes(settings, host) if view["node"] == node]
    if not found:
        where = "the database" if host is None else f"host {host}"
        raise CommandFailed(f"{where} has no node {node}")
    if len(found) > 1:
        hosts = ", ".join(view["host"] for view in found)
        raise CommandFailed(f"there is a node {node} on several hosts, name one of them with --host: {hosts}")
    if style == JSON:
        show_json(found[0])
    else:
        show_fields(_fields(found[0]))


def read_nodes(settings: Settings, host: str | None) -> list[dict[str, Any]]:
    """The node views of one host, or of all, in order of host and node. Raises CommandFailed: the host does not exist."""
    from tracker_worker.cli.ledgers import load_hosts, opened_store
    from tracker_worker.domain.views import node_view

    with opened_store(settings.load(messaging=False)) as store:
        views = [node_view(ledger) for loaded in load_hosts(store, host) for ledger in loaded]
    return sorted(views, key=lambda view: (view["host"], view["node"]))


def node_rows(views: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[Any]]:
    """The table rows of node views, under the headings ``NODE_COLUMNS``."""
    for view in views:
        yield (
            view["host"],
            view["node"],
            "disabled" if view["disabled"] else "enabled",
            *(f"{view[klass.used]}/{'-' if view[klass.total] is None else view[klass.total]}" for klass in CLASSES),
            view["running_vms"],
            view["generation"],
            view["sequence"],
        )


def _fields(view: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in view.items():
        if name == "stats":
            yield from ((f"stats.{counter}", count) for counter, count in sorted(value.items()))
        else:
            yield name, value
