# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker host``: list, rename and forget hosts, in the database; adopt a host that another ledger served."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from tracker_worker.cli.administration import administration
from tracker_worker.cli.context import Commands, Settings, example, keep_logs_quiet
from tracker_worker.cli.output import JSON, plain, show_json, show_table, table_options, to_seconds
from tracker_worker.cli.table import column, figure, prose

_COLUMNS = (
    column("Host"),
    column("Queue", 8),
    column("Active", 1),
    prose("Standbys", 3),
    column("Lease until", 6),
    column("Last seen", 2),
    column("Release", 7),
    figure("Nodes", 5),
    figure("Instances", 4),
)


@click.group(cls=Commands, epilog=example("host list"))
def host() -> None:
    """List, rename, forget and adopt hosts."""


@host.command("list", epilog=example("host list"))
@table_options
@click.pass_obj
def list_(settings: Settings, style: str) -> None:
    """List the hosts of the database, and the workers that serve each of them. No worker needs to run."""
    views = read_hosts(settings)
    if style == JSON:
        show_json(views)
    else:
        show_table(_COLUMNS, _rows(views), empty="There are no hosts.")


@host.command(epilog=example("host rename h1 h7"))
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.pass_obj
def rename(settings: Settings, old: str, new: str) -> None:
    """Give a host another name, with its nodes and all that they are charged.

    No worker may serve one of the two. A host NEW may exist if nothing is charged to it. Set [tracker] hosts of the worker
    and its inventory to the new name.
    """
    from tracker_worker.conf.names import check_host_name

    topic = settings.load(messaging=False).tracker.topic
    check_host_name("NEW", new, topic)
    with administration(settings, "host rename") as (_, operator):
        operator.rename_host(old, new)
    click.echo(
        plain(
            f"Host {old} is host {new} now. Delete the queue {topic}.{old} when nothing is left in it, and the queue "
            f"{topic}_ledger.{old}."
        )
    )


@host.command(epilog=example("host forget h1"))
@click.argument("host", metavar="HOST")
@click.pass_obj
def forget(settings: Settings, host: str) -> None:
    """Delete a host that nobody serves and that is charged for nothing, with its nodes.

    The numbers of its nodes' notifications are kept: they go on if the host comes back.
    """
    with administration(settings, "host forget") as (_, operator):
        operator.forget_host(host)
    topic = settings.load(messaging=False).tracker.topic
    click.echo(plain(f"Host {host} is forgotten. Delete its queues too: {topic}.{host}, {topic}_ledger.{host}"))


@host.command(epilog=example("--config-file worker.conf host adopt h1"))
@click.argument("host", metavar="HOST")
@click.pass_obj
def adopt(settings: Settings, host: str) -> None:
    """Let this configuration's database be the ledger of HOST from now on.

    The broker keeps for each host which ledger it is served from, and no worker with another one serves it: after a
    machine was installed anew, after a database was lost, and with the copy of a database. Stop the worker that serves
    the host first. A worker of this configuration that is refused goes on by itself within a few seconds.

    If the host was served from this database or from a copy of it, the database begins a new history, with a new
    ledger_id for all of its hosts, because the copy may have used the same numbers for other notifications.
    """
    conf = settings.load()
    keep_logs_quiet(conf)
    # After the options of oslo.messaging, which choose how it uses threads.
    from tracker_worker.cli.adoption import adopt_host
    from tracker_worker.cli.ledgers import opened_store

    with opened_store(conf) as store:
        adopted = adopt_host(store, conf, host)
    if adopted.is_new_history:
        click.echo(
            f"The database goes on in a new history, because another copy of it may have served the host as {adopted.before}."
        )
    click.echo(
        f"Host {host} is served from the ledger {adopted.ledger_id} now; it was served from {adopted.before or 'none'}."
    )


def read_hosts(settings: Settings) -> list[dict[str, Any]]:
    """The hosts of the database, by name. Raises CommandFailed, ConfigurationError: as ``opened_store``."""
    from tracker_worker.cli.ledgers import opened_store
    from tracker_worker.domain.views import iso
    from tracker_worker.store.base import serving, standbys

    conf = settings.load(messaging=False)
    with opened_store(conf) as store:
        records, now, ledger_id = store.hosts(), store.time(), store.histories()[-1].ledger_id
    return [
        {
            "host": record.name,
            "ledger_id": ledger_id,
            "queue": f"{conf.tracker.topic}.{record.name}",
            "active": serving(record, now),
            "standbys": standbys(record, now),
            "lease_expires_at": iso(record.lease_expires_at) if record.lease_expires_at else "",
            "last_seen_at": iso(record.last_seen_at) if record.last_seen_at else "",
            "release": record.version,
            "nodes": record.nodes,
            "instances": record.instances,
        }
        for record in records
    ]


def _rows(views: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[Any]]:
    for view in views:
        yield (
            view["host"],
            view["queue"],
            view["active"] or "-",
            ", ".join(view["standbys"]) or "-",
            to_seconds(view["lease_expires_at"]) or "-",
            to_seconds(view["last_seen_at"]) or "-",
            view["release"],
            view["nodes"],
            view["instances"],
        )
