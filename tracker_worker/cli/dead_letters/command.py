# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker dead-letter``: casts that could not be done, and what an operator can do with them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from oslo_config import cfg

from tracker_worker.cli.context import CommandFailed, Commands, Settings, example, keep_logs_quiet
from tracker_worker.cli.output import JSON, format_option, show_json, show_table, table_options
from tracker_worker.cli.table import column, figure, prose

if TYPE_CHECKING:
    from tracker_worker.bus.settings import BrokerSettings
    from tracker_worker.cli.dead_letters.message import DeadMessage
    from tracker_worker.cli.dead_letters.replay import Outcome
    from tracker_worker.cli.dead_letters.selection import Selection

_COLUMNS = (
    figure("No.", 0),
    column("Id"),
    column("Kept in", 9),
    column("Time", 3),
    column("Code", 1),
    column("Method", 4),
    column("Host", 5),
    column("Instance", 6),
    column("Sent to", 7),
    figure("Bytes", 8),
    prose("Reason", 2),
)
_OUTCOME_COLUMNS = (
    figure("No.", 0),
    column("Id"),
    column("Method", 3),
    column("Host", 4),
    column("Instance", 2),
    column("Sent to", 5),
    prose("Outcome", 0),
)
_names_argument = click.argument("names", nargs=-1, metavar="[NUMBER|ID]...")
_unique_id_option = click.option(
    "--unique-id", metavar="ID", help="Select the copies of the request with this _unique_id."
)
_code_option = click.option(
    "--reason", "code", metavar="CODE", help="Select the messages with this code, as 'list' shows it."
)
_all_option = click.option("--all", "everything", is_flag=True, help="Select every message.")


@click.group("dead-letter", cls=Commands, epilog=example("dead-letter list"))
def dead_letter() -> None:
    """List, show, replay or remove casts that could not be done.

    Such a cast is kept as a message in the queue [bus] dead_letter_queue, or, if the broker did not take that message, in the
    database. A message is named by its number, which is its
    place in the list, or by its id. Numbers shift when earlier messages are removed; ids do not. The first four characters
    of an id are enough when no other id begins with them.

    While a command runs, it holds all messages of the queue; a second command waits for up to 5
    seconds and then fails.
    """


@dead_letter.command("list", epilog=example("dead-letter list --limit 20"))
@click.option("--limit", type=click.IntRange(min=1), help="Show only this many, the oldest.  [default: all]")
@table_options
@click.pass_obj
def list_(settings: Settings, limit: int | None, style: str) -> None:
    """List the dead-lettered messages, oldest first. They stay where they are kept."""
    conf, broker = _read(settings)
    from tracker_worker.cli.dead_letters.format import summary
    from tracker_worker.cli.dead_letters.places import opened_letters

    with opened_letters(conf, broker) as letters:
        pass
    shown = letters.messages[:limit]
    if style == JSON:
        show_json([summary(message) for message in shown])
    else:
        show_table(_COLUMNS, (_row(message) for message in shown), empty="There are no dead-lettered messages.")
    not_shown = len(letters.messages) - len(shown) + letters.not_taken
    if not_shown:
        click.echo(f"{not_shown} more are not shown.", err=True)


@dead_letter.command(epilog=example("dead-letter show 1"))
@click.argument("name", required=False, metavar="[NUMBER|ID]")
@click.option("--unique-id", metavar="ID", help="Show the request with this _unique_id.")
@format_option
@click.pass_obj
def show(settings: Settings, name: str | None, unique_id: str | None, style: str) -> None:
    """Show everything about one message.

    That is the reason, the properties, the headers, and the decoded message. A body that cannot be decoded is shown as
    text or, when it is not text, as bytes in hexadecimal: the first 4096 with --format table, all with --format json.
    The message stays where it is kept.
    """
    from tracker_worker.cli.dead_letters.selection import Selection

    selection = Selection(names=() if name is None else (name,), unique_id=unique_id)
    conf, broker = _read(settings)
    from tracker_worker.cli.dead_letters.format import describe, show_described
    from tracker_worker.cli.dead_letters.places import opened_letters

    with opened_letters(conf, broker, with_body=selection.may_want) as letters:
        found = selection.pick(letters.messages, datetime.now(UTC))
    for copy in found[1:]:
        click.echo(f"Number {copy.number} is another copy of this message.", err=True)
    described = describe(found[0], conf.bus.max_body_bytes)
    if style == JSON:
        show_json(described)
    else:
        show_described(described)


@dead_letter.command(epilog=example("dead-letter replay --reason node_not_found --dry-run"))
@_names_argument
@_all_option
@_unique_id_option
@_code_option
@click.option("--dry-run", is_flag=True, help="Only show which messages would be replayed, and which kept.")
@table_options
@click.pass_obj
def replay(
    settings: Settings,
    names: tuple[str, ...],
    everything: bool,
    unique_id: str | None,
    code: str | None,
    dry_run: bool,
    style: str,
) -> None:
    """Send messages again, oldest first, and remove them.

    Each message goes to the exchange and the routing key that it was first sent to, with its body unchanged. It is
    removed from where it is kept when the broker has confirmed that a queue has it. A message that no queue takes
    is kept, as are later messages to the same place. A call is kept unless it is named by number, id or --unique-id,
    because its caller has given up. The exit code is 1 when a message is kept.

    Messages are selected by number or id, by --unique-id and --reason, which must both hold if both are given, or by
    --all. To replay a message twice, for instance after an interruption, is harmless: the worker recognizes the request
    by its unique id for [database] inbox_retention_seconds.
    """
    from tracker_worker.cli.dead_letters.selection import Selection

    selection = Selection(names=names, everything=everything, unique_id=unique_id, code=code)
    conf, broker = _read(settings)
    from tracker_worker.cli.dead_letters.places import opened_letters
    from tracker_worker.cli.dead_letters.replay import Outcome, objection, send_again

    outcomes: list[Outcome] = []
    done = "would be replayed" if dry_run else "replayed"
    try:
        with opened_letters(conf, broker, with_body=selection.may_want) as letters:
            chosen = selection.pick(letters.messages, datetime.now(UTC))
            calls = selection.individual
            if dry_run:
                outcomes.extend(Outcome(message, objection(message, calls=calls)) for message in chosen)
            else:
                outcomes.extend(send_again(letters, chosen, calls=calls))
    except BaseException:
        if outcomes:  # the operator must know which messages were sent before the failure
            _show_outcomes(outcomes, done, style)
        raise
    _show_outcomes(outcomes, done, style)
    kept = sum(outcome.kept is not None for outcome in outcomes)
    if kept:
        raise CommandFailed(f"{kept} of {len(outcomes)} messages are kept")


@dead_letter.command(epilog=example("dead-letter purge --older-than 604800 --yes"))
@_names_argument
@_all_option
@_unique_id_option
@_code_option
@click.option(
    "--older-than",
    "older_than_seconds",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="Select the messages that were parked more than this many seconds ago.",
)
@click.option(
    "--yes", is_flag=True, help="Remove the messages. Without --yes nothing is removed and the exit code is 1."
)
@format_option
@click.pass_obj
def purge(
    settings: Settings,
    names: tuple[str, ...],
    everything: bool,
    unique_id: str | None,
    code: str | None,
    older_than_seconds: int | None,
    yes: bool,
    style: str,
) -> None:
    """Remove dead-lettered messages for good. Without --yes, only say how many messages would be removed.

    Messages are selected by number or id, by the options --unique-id, --reason and --older-than, which must all hold if
    several are given, or by --all. --all also removes messages that arrive while the command runs.
    """
    from tracker_worker.cli.dead_letters.selection import Selection

    selection = Selection(
        names=names, everything=everything, unique_id=unique_id, code=code, older_than_seconds=older_than_seconds
    )
    conf, broker = _read(settings)
    count = _purge_all(conf, broker, yes) if everything else _purge_selected(conf, broker, selection, yes)
    if not yes:
        raise CommandFailed(f"{count} messages would be removed; say --yes to do it")
    if style == JSON:
        show_json({"removed": count})
    else:
        click.echo(f"Removed {count} messages.")


def _purge_all(conf: cfg.ConfigOpts, broker: BrokerSettings, yes: bool) -> int:
    """Purge the queue in one request to the broker, which also removes more messages than MAX_MESSAGES, and what the database
    keeps. Return how many."""
    from tracker_worker.cli.dead_letters.places import store_if_there
    from tracker_worker.cli.dead_letters.queue import count_ready, exclusive_connection
    from tracker_worker.store.base import MOST_DEAD_LETTERS

    with exclusive_connection(broker) as connection, store_if_there(conf) as store:
        count = count_ready(connection, broker.dead_letter_queue)
        if yes and count:
            count = int(connection.channel().queue_purge(broker.dead_letter_queue))
        kept = [] if store is None else [id for id, _ in store.dead_letters(MOST_DEAD_LETTERS)]
        if yes and kept and store is not None:
            store.drop_dead_letters(kept)
        return count + len(kept)


def _purge_selected(conf: cfg.ConfigOpts, broker: BrokerSettings, selection: Selection, yes: bool) -> int:
    from tracker_worker.cli.dead_letters.places import opened_letters

    with opened_letters(conf, broker) as letters:
        chosen = selection.pick(letters.messages, datetime.now(UTC))
        if yes:
            for message in chosen:
                letters.remove(message)
    return len(chosen)


def _read(settings: Settings) -> tuple[cfg.ConfigOpts, BrokerSettings]:
    conf = settings.load()
    keep_logs_quiet(conf)
    # After the options of oslo.messaging, which choose how it uses threads.
    from tracker_worker.bus.settings import read_settings

    return conf, read_settings(conf)


def _row(message: DeadMessage) -> Iterator[Any]:
    time = None if message.time is None else message.time.strftime("%Y-%m-%dT%H:%M:%SZ")
    yield from (
        message.number,
        message.id,
        message.kept_in,
        time,
        message.code,
        message.method,
        message.host,
        message.instance,
    )
    yield from (message.target, message.size, message.text)


def _show_outcomes(outcomes: list[Outcome], done: str, style: str) -> None:
    if style == JSON:
        from tracker_worker.cli.dead_letters.format import summary

        show_json(
            [
                {**summary(outcome.message), "replayed": outcome.kept is None, "kept": outcome.kept}
                for outcome in outcomes
            ]
        )
        return
    rows = []
    for outcome in outcomes:
        message = outcome.message
        text = f"kept: {outcome.kept}" if outcome.kept else done
        if message.problem is not None and not outcome.kept:
            text += f"; it will be dead-lettered again, as the worker cannot read it: {message.problem}"
        rows.append((message.number, message.id, message.method, message.host, message.instance, message.target, text))
    show_table(_OUTCOME_COLUMNS, rows, empty="There is nothing to replay.")
