# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker host``: the hosts of the database."""

from __future__ import annotations

import click

from tracker_worker.cli.context import Commands, Settings, keep_logs_quiet


@click.group(cls=Commands)
def host() -> None:
    """Care for the hosts of the database, whether a worker runs or not."""


@host.command()
@click.argument("host", metavar="HOST")
@click.pass_obj
def adopt(settings: Settings, host: str) -> None:
    """Let this configuration's database be the ledger of HOST from now on.

    The broker keeps for each host which ledger it is served from, and no worker with another one serves it: after a
    machine was installed anew, after a database was lost, and with the copy of a database. Stop the worker that serves
    the host first. A worker of this configuration that is refused goes on by itself within a few seconds.

    The copy of a ledger that has served the host becomes a new history of its own, with a new ledger_id, of all its
    hosts.
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
            f"The database goes on in a new history, because the ledger {adopted.before} is that of another copy."
        )
    click.echo(
        f"Host {host} is served from the ledger {adopted.ledger_id} now; it was served from {adopted.before or 'none'}."
    )
