# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker node``: list and show nodes; drain, retire, rename and move them. All of it in the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from tracker_worker.cli.administration import administration, host_of
from tracker_worker.cli.context import CommandFailed, Commands, Settings, example
from tracker_worker.cli.failures import NOT_FOUND
from tracker_worker.cli.operator import read_reason
from tracker_worker.cli.output import (
    JSON,
    format_option,
    others,
    plain,
    show_fields,
    show_json,
    show_table,
    table_options,
    to_seconds,
)
from tracker_worker.cli.table import column, figure, prose
from tracker_worker.domain.resources import CLASSES

if TYPE_CHECKING:
    from tracker_worker.domain.commands import DrainNode, RetireNode, UndrainNode

    NodeCommand = DrainNode | UndrainNode | RetireNode

NODE_COLUMNS = (
    column("Host"),
    column("Node"),
    column("State", 1),
    *(figure(klass.name, 2) for klass in CLASSES),
    figure("Instances", 3),
    figure("Generation", 8),
    figure("Sequence", 7),
    column("Since", 6),
    prose("Reason", 5),
    prose("Others", 4),
)

_host_option = click.option("--host", help="The node's host; required when several hosts have a node of this name.")


@click.group(cls=Commands, epilog=example("node list"))
def node() -> None:
    """List and show nodes: their inventories and their usage. Drain, retire, rename and move them.

    All of this happens in the database, whether workers run or not. A running worker obeys from its next decision on.
    """


@node.command("list", epilog=example("node list --host h1 --wide"))
@click.option("--host", help="List only the nodes of this host.")
@table_options
@click.pass_obj
def list_(settings: Settings, host: str | None, style: str) -> None:
    """List nodes with their usage and their inventory.

    Amounts are used/total: VCPU in virtual CPUs, MEMORY_MB in MB, DISK_GB in GB. Used includes the reserve of [tracker]
    reserved_host_*. A node whose inventory is not known has no total. Since and Reason belong to the state. Others are the
    custom classes. Retired nodes are listed too.
    """
    views = read_nodes(settings, host)
    if style == JSON:
        show_json(views)
    else:
        show_table(NODE_COLUMNS, node_rows(views), empty="There are no nodes.")


@node.command(epilog=example("node show node-1 --format json"))
@click.argument("node", metavar="NODE")
@_host_option
@format_option
@click.pass_obj
def show(settings: Settings, node: str, host: str | None, style: str) -> None:
    """Show everything that the database has about one node."""
    found = [view for view in read_nodes(settings, host) if view["node"] == node]
    if not found:
        where = "the database" if host is None else f"host {host}"
        raise CommandFailed(f"{where} has no node {node}", code=NOT_FOUND, host=host, node=node)
    if len(found) > 1:
        hosts = ", ".join(view["host"] for view in found)
        raise CommandFailed(f"there is a node {node} on several hosts, name one of them with --host: {hosts}")
    if style == JSON:
        show_json(found[0])
    else:
        show_fields(_fields(found[0]))


@node.command(epilog=example("node drain node-1 --reason 'disk is replaced'"))
@click.argument("node", metavar="NODE")
@click.option("--reason", required=True, callback=read_reason, help="Why; callers who are refused are told.")
@_host_option
@format_option
@click.pass_obj
def drain(settings: Settings, node: str, reason: str, host: str | None, style: str) -> None:
    """Let a node take no further claims.

    What the node is charged stays; claims that are begun may be finished. 'node undrain' takes it back.
    """
    from tracker_worker.domain.commands import DrainNode

    _change(settings, "node drain", DrainNode(node=node, reason=reason), host, style)


@node.command(epilog=example("node undrain node-1"))
@click.argument("node", metavar="NODE")
@_host_option
@format_option
@click.pass_obj
def undrain(settings: Settings, node: str, host: str | None, style: str) -> None:
    """Let a node take claims again that was drained or retired."""
    from tracker_worker.domain.commands import UndrainNode

    _change(settings, "node undrain", UndrainNode(node=node), host, style)


@node.command(epilog=example("node retire node-1 --reason 'sold'"))
@click.argument("node", metavar="NODE")
@click.option("--reason", default="", callback=read_reason, help="Why; shown by 'node list'.")
@_host_option
@format_option
@click.pass_obj
def retire(settings: Settings, node: str, reason: str, host: str | None, style: str) -> None:
    """Take an empty node out of service, although its driver may list it.

    For clients the node does not exist any more. A node that is charged for instances is refused. 'node undrain' takes it
    back.
    """
    from tracker_worker.domain.commands import RetireNode

    _change(settings, "node retire", RetireNode(node=node, reason=reason), host, style)


@node.command(epilog=example("node rename node-1 node-7 --host h1"))
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--host", required=True, help="The node's host.")
@format_option
@click.pass_obj
def rename(settings: Settings, old: str, new: str, host: str, style: str) -> None:
    """Give a node another name, with all that it is charged.

    A node NEW may exist if nothing is charged to it: it is replaced. Rename the node in its inventory too.
    """
    _move(settings, "node rename", old, host, host, new, style)


@node.command(epilog=example("node move node-1 --host h1 --to h2"))
@click.argument("node", metavar="NODE")
@click.option("--host", required=True, help="The host that the node belongs to now.")
@click.option("--to", required=True, metavar="HOST", help="The host that the node is to belong to.")
@format_option
@click.pass_obj
def move(settings: Settings, node: str, host: str, to: str, style: str) -> None:
    """Give a node to another host of the same database, with all that it is charged.

    The other host may have a node of this name if nothing is charged to it: it is replaced. Move the node in the inventories
    too.
    """
    _move(settings, "node move", node, host, to, node, style)


def _change(settings: Settings, method: str, command: NodeCommand, host: str | None, style: str) -> None:
    from tracker_worker.cli.ledgers import load_host
    from tracker_worker.domain.views import node_view

    with administration(settings, method) as (store, operator):
        name = host_of(store, command.node, host)
        operator.decide(name, command)
        view = node_view(load_host(store, name).nodes[command.node])
    _show(view, style)


def _move(settings: Settings, method: str, node: str, host: str, to: str, name: str, style: str) -> None:
    from tracker_worker.domain.views import node_view

    with administration(settings, method) as (_, operator):
        view = node_view(operator.move_node(node, host=host, to=to, name=name))
    _show(view, style)


def _show(view: Mapping[str, Any], style: str) -> None:
    if style == JSON:
        show_json(view)
    else:
        reason = f" ({view['state_reason']})" if view["state_reason"] else ""
        click.echo(plain(f"Node {view['node']} of host {view['host']} is {view['state']}{reason}."))


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
            view["state"],
            *(f"{view[klass.used]}/{'-' if view[klass.total] is None else view[klass.total]}" for klass in CLASSES),
            view["running_vms"],
            view["generation"],
            view["sequence"],
            to_seconds(view["state_since"]) or "-",
            view["state_reason"] or "-",
            others(
                {
                    name: f"{each['reserved'] + each['used']}/{each['total']}"
                    for name, each in view.get("resources", {}).items()
                }
            ),
        )


def _fields(view: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in view.items():
        if name == "stats":
            yield from ((f"stats.{counter}", count) for counter, count in sorted(value.items()))
        elif name == "resources":
            yield from ((f"resources.{klass}.{key}", each[key]) for klass, each in value.items() for key in each)
        else:
            yield name, value
