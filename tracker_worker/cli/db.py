# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker db``: the schema of the database."""

from __future__ import annotations

import click

from tracker_worker.cli.context import CommandFailed, Commands, Settings
from tracker_worker.cli.output import JSON, format_option, show_json


@click.group(cls=Commands)
def db() -> None:
    """Show, check and upgrade the schema of the database.

    A worker on SQLite upgrades the schema by itself. On PostgreSQL run `db upgrade` of the new release before its workers
    start.
    """


@db.command()
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


@db.command()
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


@db.command()
@click.pass_obj
def check(settings: Settings) -> None:
    """Exit with 1 unless the schema has the revision that this release needs."""
    from tracker_worker.cli.ledgers import opened_engine
    from tracker_worker.store.sql import migration

    with opened_engine(settings.load(messaging=False)) as engine:
        problem = migration.schema_problem(engine)
    if problem:
        raise CommandFailed(problem)
    click.echo("The schema is what this release needs.")
