# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker db backup`` and ``db restore``."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from tracker_worker.cli.context import CommandFailed, Settings, example
from tracker_worker.cli.output import plain
from tracker_worker.text import counted, printable

if TYPE_CHECKING:
    import sqlalchemy as sa
    from oslo_config import cfg

    from tracker_worker.store.base import Store

_FILE = click.Path(dir_okay=False, path_type=Path)
# A reason in a history may have 255 characters.
_MOST_OF_A_NAME = 200


@click.command(epilog=example("db backup /var/backups/tracker.sqlite"))
@click.argument("file", metavar="FILE", type=_FILE)
@click.pass_obj
def backup(settings: Settings, file: Path) -> None:
    """Write a copy of the SQLite database to FILE, which only its user can read and which must not exist.

    Workers go on meanwhile. The copy is the database as of one commit, in one file, whatever its schema is. Of a PostgreSQL
    database nothing is written: the command says which command of PostgreSQL to use.
    """
    from tracker_worker.files import create_private
    from tracker_worker.store.sql.backup import BackupError, copy_database

    url = _existing(settings.load(messaging=False))
    if url.get_backend_name() != "sqlite":
        raise CommandFailed(_use_pg_dump(url, file))
    try:
        create_private(file)  # nobody else takes the name meanwhile
        try:
            with TemporaryDirectory(prefix=".tracker-backup-", dir=file.absolute().parent) as directory:
                copy = Path(directory, "copy.sqlite")
                copy_database(_path(url), copy)
                size = copy.stat().st_size
                os.replace(copy, file)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
    except FileExistsError as error:
        raise CommandFailed(f"{file} exists; a backup replaces no file") from error
    except (BackupError, OSError) as error:
        raise CommandFailed(f"no backup is made: {error}") from error
    click.echo(plain(f"{file} is a copy of the database {_path(url)}: {size} bytes"))


@click.command(epilog=example("db restore /var/backups/tracker.sqlite"))
@click.argument("file", metavar="FILE", type=_FILE)
@click.pass_obj
def restore(settings: Settings, file: Path) -> None:
    """Replace the SQLite database by the copy FILE, in a new history, and print the new ledger id.

    No worker and no other program may have the database open. FILE may have the schema of an earlier release, and stays as it
    is. Consumers are told that what they have heard after the copy was made never happened. The database becomes the copy in
    one transaction: a crash leaves the old one or the new one.
    """
    from tracker_worker.store.sql import backup as copies
    from tracker_worker.store.sql.location import prepared_url, sqlite_path

    conf = settings.load(messaging=False)
    url = _url(conf)
    if url.get_backend_name() != "sqlite":
        raise CommandFailed(_use_pg_restore(url, file))
    prepared_url(conf)
    target = sqlite_path(url).absolute()
    try:
        if target.exists() and file.exists() and target.samefile(file):
            raise CommandFailed(f"{file} is the database itself")
        with TemporaryDirectory(prefix=".tracker-restore-", dir=target.parent) as directory:
            copy = Path(directory, "copy.sqlite")
            if target.exists():
                with copies.locked_database(target) as database:
                    before = database.ledger_id
                    ledger_id, foreign = _prepare(conf, file, copy, before)
                    database.become(copy)
            else:
                ledger_id, foreign = _prepare(conf, file, copy, None)
                copies.put_in_place(copy, target)
    except copies.DatabaseInUse as error:
        raise CommandFailed(f"{error}{_users(conf)}: stop the workers first, then restore") from error
    except (copies.BackupError, OSError) as error:
        raise CommandFailed(f"nothing is restored: {error}") from error
    click.echo(ledger_id)
    if foreign:
        click.echo(
            plain(
                f"WARNING: hosts that were served from the ledger {before} are not served from this one, which is older, until "
                f"'tracker-worker host adopt HOST': {', '.join(foreign)}"
            ),
            err=True,
        )


def _prepare(conf: cfg.ConfigOpts, file: Path, copy: Path, before: str | None) -> tuple[str, list[str]]:
    """Make ``copy`` what is to be restored, with a history of its own. Returns its ledger_id, and its hosts if it does not
    follow on the ledger ``before``: the broker knows them as those of another one.

    Raises BackupError: ``file`` is of no use.
    """
    import sqlalchemy as sa

    from tracker_worker.cli.histories import begin
    from tracker_worker.new_history import follows
    from tracker_worker.store.sql.backup import BackupError, bring_up_to_date, copy_database
    from tracker_worker.store.sql.location import sqlite_url
    from tracker_worker.store.sql.store import SQLStore

    copy_database(file, copy)
    bring_up_to_date(copy, named=file)
    store = SQLStore(sqlite_url(copy))
    try:
        begun = begin(store, conf, reason=f"restored from {printable(file.name, _MOST_OF_A_NAME)}", method="db restore")
        is_successor = before is None or follows(store.histories(), before)
        return begun.ledger_id, [] if is_successor else list(store.host_names())
    except (sa.exc.SQLAlchemyError, IndexError) as error:
        raise BackupError(f"{file} cannot be used: {getattr(error, 'orig', None) or error}") from error
    finally:
        store.stop()


def _users(conf: cfg.ConfigOpts) -> str:
    """The workers that use the database, as far as it says so."""
    from tracker_worker.cli.ledgers import opened_store
    from tracker_worker.errors import TrackerError

    # It may have another schema, or be locked.
    with suppress(CommandFailed, TrackerError), opened_store(conf) as store:
        return _named(store)
    return ""


def _named(store: Store) -> str:
    from tracker_worker.store.base import serving, standbys

    now = store.time()
    workers = {
        name for record in store.hosts() for name in (serving(record, now), *standbys(record, now)) if name is not None
    }
    return f" ({counted(len(workers), 'worker')}: {', '.join(sorted(workers))})" if workers else ""


def _existing(conf: cfg.ConfigOpts) -> sa.URL:
    """The URL of the database, which exists if it is a file."""
    import sqlalchemy as sa

    from tracker_worker.cli.ledgers import existing_url

    return sa.make_url(existing_url(conf))


def _url(conf: cfg.ConfigOpts) -> sa.URL:
    import sqlalchemy as sa

    from tracker_worker.store.sql import engines
    from tracker_worker.store.sql.location import configured_url

    text = configured_url(conf)
    engines.create_engine(text).dispose()  # raises ConfigurationError for an unusable URL
    return sa.make_url(text)


def _path(url: sa.URL) -> Path:
    from tracker_worker.store.sql.location import sqlite_path

    return sqlite_path(url)


def _use_pg_dump(url: sa.URL, file: Path) -> str:
    command = ["pg_dump", f"--dbname={_libpq(url)}", "--format=custom", f"--file={file}"]
    return (
        "no backup is made: a PostgreSQL database is copied by PostgreSQL's own program, which asks for the password or takes "
        f"it from ~/.pgpass: (umask 077; {shlex.join(command)})"
    )


def _use_pg_restore(url: sa.URL, file: Path) -> str:
    command = ["pg_restore", f"--dbname={_libpq(url)}", "--clean", "--if-exists", "--no-owner", "--single-transaction"]
    return (
        "nothing is restored: a PostgreSQL database is restored by PostgreSQL's own program. Stop the workers, then run: "
        f"{shlex.join([*command, str(file)])} && tracker-worker db upgrade && tracker-worker db new-history --reason restored"
    )


def _libpq(url: sa.URL) -> str:
    """The URL as PostgreSQL's programs read it, without a password."""
    import sqlalchemy as sa

    rest = url.difference_update_query(["password"])
    return sa.URL.create(
        "postgresql", url.username, None, url.host, url.port, url.database, rest.query
    ).render_as_string()
