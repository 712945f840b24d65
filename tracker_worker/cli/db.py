# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker db``: the schema of the database, its histories, and copies of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tracker_worker.cli import db_backup
from tracker_worker.cli.context import Commands, Settings, example
from tracker_worker.cli.operator import read_reason
from tracker_worker.cli.output import JSON, format_option, plain, show_json, show_table, table_options, to_seconds
from tracker_worker.cli.table import column, prose

if TYPE_CHECKING:
    from tracker_worker.store.base import History


@click.group(cls=Commands, epilog=example("db check"))
def db() -> None:
    """Show, check and upgrade the schema of the database; copy and restore it; show its histories, and begin a new one.

    A worker on SQLite upgrades the schema by itself. On PostgreSQL run `db upgrade` of the new release before its workers
    start.
    """


@db.command(epilog=example("--config-file worker.conf db upgrade"))
@click.option("--revision", default="head", show_default=True, help="Go up to this revision only.")
@click.pass_obj
def upgrade(settings: Settings, revision: str) -> None:
    """Upgrade the schema to the revision that this release needs.

    The upgrade is one transaction. An SQLite database that does not exist is created. A schema that already has the
    revision stays unchanged.
    """
    from tracker_worker.store.sql import engines, migration
    from tracker_worker.store.sql.location import prepared_url

    engine = engines.create_engine(prepared_url(settings.load(messaging=False)))
    try:
        before = migration.current(engine)
        migration.upgrade(engine, revision)
        after = migration.current(engine)
    finally:
        engine.dispose()
    if before == after:
        click.echo(f"The schema is at revision {after} already.")
    else:
        click.echo(f"The schema is at revision {after} now; it was at {before or 'none'}.")


@db.command(epilog=example("db current"))
@format_option
@click.pass_obj
def current(settings: Settings, style: str) -> None:
    """Show the revision of the schema and the revision that this release needs."""
    from tracker_worker.cli.ledgers import opened_engine
    from tracker_worker.store.sql import migration

    with opened_engine(settings.load(messaging=False)) as engine:
        found, needed = migration.current(engine), migration.head()
    if style == JSON:
        show_json({"current": found, "head": needed})
    else:
        click.echo(f"The schema is at revision {found or 'none'}; this release needs {needed}.")


@db.command(epilog=example("db check"))
@click.pass_obj
def check(settings: Settings) -> None:
    """Exit with 1 unless the schema has the revision that this release needs; print the ledger id of the database.

    A warning names the hosts of the database that no worker serves and that are not in [tracker] hosts, with the number of
    their instances.
    """
    from tracker_worker.cli.ledgers import opened_store
    from tracker_worker.store.base import serving
    from tracker_worker.text import counted

    conf = settings.load(messaging=False)
    with opened_store(conf) as store:
        ledger_id, records, now = store.histories()[-1].ledger_id, store.hosts(), store.time()
    click.echo(f"The schema is what this release needs: ledger {ledger_id}")
    orphans = [record for record in records if record.name not in conf.tracker.hosts and serving(record, now) is None]
    if orphans:
        named = ", ".join(f"{record.name} ({counted(record.instances, 'instance')})" for record in orphans)
        click.echo(plain(f"WARNING: hosts of the database that no worker serves: {named}"), err=True)


@db.command(epilog=example("db history"))
@table_options
@click.pass_obj
def history(settings: Settings, style: str) -> None:
    """Show the histories of the database, the oldest first; the last one is the present one.

    A history has a ledger id, which is in each notification. A new one begins when a worker finds that the database went back,
    or with `db new-history`: what the one before has told beyond its last number there never happened.
    """
    from tracker_worker.cli.ledgers import opened_store

    with opened_store(settings.load(messaging=False)) as store:
        found = [_view(history) for history in store.histories()]
    if style == JSON:
        show_json(found)
        return
    rows = ((view["ledger_id"], to_seconds(view["since"]), view["reason"]) for view in found)
    show_table((column("Ledger"), column("Since", 1), prose("Reason", 2)), rows, empty="There are no histories.")


@db.command("new-history", epilog=example("db new-history --reason 'restored the backup of Sunday'"))
@click.option("--reason", required=True, callback=read_reason, help="Why; shown by 'db history'.")
@format_option
@click.pass_obj
def new_history(settings: Settings, reason: str, style: str) -> None:
    """Begin a new history after the database was restored, and print its ledger id.

    Each node of each host tells it with its next notification, so that consumers know which notifications of the old history
    never happened. Workers may run: they go on in the new history. `db restore` begins one
    by itself. After any other restore begin one before workers start, and whenever workers were stopped while the database went
    back.
    """
    from tracker_worker.cli.histories import begin
    from tracker_worker.cli.ledgers import opened_store

    conf = settings.load(messaging=False)
    with opened_store(conf) as store:
        begun = _view(begin(store, conf, reason=reason, method="db new-history"))
    if style == JSON:
        show_json(begun)
    else:
        click.echo(begun["ledger_id"])


db.add_command(db_backup.backup)
db.add_command(db_backup.restore)


def _view(history: History) -> dict[str, Any]:
    """The history as these commands show it."""
    from tracker_worker.domain.views import iso

    return {
        "ledger_id": history.ledger_id,
        "since": iso(history.since),
        "reason": history.reason,
        "predecessor": history.predecessor,
    }
