# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker dead-letter``: casts that could not be done, and what to do with them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from tracker_worker.bus.settings import BrokerSettings, read_settings
from tracker_worker.cli.context import CommandFailed, Commands, Settings, keep_logs_quiet
from tracker_worker.cli.dead_letters import queue as letterbox
from tracker_worker.cli.dead_letters.format import describe, show_described, summary
from tracker_worker.cli.dead_letters.message import Letter
from tracker_worker.cli.dead_letters.replay import Outcome, objection
from tracker_worker.cli.dead_letters.replay import replay as send_again
from tracker_worker.cli.dead_letters.selection import Selection
from tracker_worker.cli.output import JSON, format_option, show_json, show_table

_COLUMNS = ("No.", "Id", "Time", "Code", "Method", "Host", "Instance", "Sent to", "Bytes", "Reason")
_DONE = ("No.", "Id", "Method", "Host", "Instance", "Sent to", "Outcome")
_names = click.argument("letters", nargs=-1, metavar="[NUMBER|ID]...")
_unique_id = click.option("--unique-id", metavar="ID", help="Those of this request: its _unique_id.")
_code = click.option("--reason", "code", metavar="CODE", help="Those of this code, as 'list' shows it.")
_all = click.option("--all", "everything", is_flag=True, help="All of them.")


@click.group("dead-letter", cls=Commands)
def dead_letter() -> None:
    """Casts that could not be done: look at them, send them again, remove them.

    A number is a letter's place in the listing, and another one as soon as letters in front of it are gone. Its id stays.
    Every command takes either; of an id the first four letters are enough where they mean one. While a command runs no
    other one sees the letters; it waits.
    """


@dead_letter.command("list")
@click.option("--limit", type=click.IntRange(min=1), help="Show so many, the oldest  [default: all]")
@format_option
@click.pass_obj
def list_(settings: Settings, limit: int | None, style: str) -> None:
    """List what is in the queue, oldest first. It stays there."""
    broker, max_bytes = _read(settings)
    with letterbox.opened(broker, max_bytes) as box:
        pass
    shown = box.letters[:limit]
    if style == JSON:
        show_json([summary(letter) for letter in shown])
    else:
        show_table(_COLUMNS, (_row(letter) for letter in shown), empty="There are no dead letters.")
    more = len(box.letters) - len(shown) + box.behind
    if more:
        click.echo(f"{more} more are not shown.", err=True)


@dead_letter.command()
@click.argument("letter", required=False, metavar="[NUMBER|ID]")
@_unique_id
@format_option
@click.pass_obj
def show(settings: Settings, letter: str | None, unique_id: str | None, style: str) -> None:
    """Show all that there is of one: reason, properties, headers, message.

    A body that is no message is shown as text, or else as bytes.
    """
    selection = Selection(names=() if letter is None else (letter,), unique_id=unique_id)
    broker, max_bytes = _read(settings)
    with letterbox.opened(broker, max_bytes, keep=selection.may_want) as box:
        found = selection.pick(box.letters, datetime.now(UTC))
    for one in found[1:]:
        click.echo(f"Number {one.number} is another copy of it.", err=True)
    described = describe(found[0], max_bytes)
    if style == JSON:
        show_json(described)
    else:
        show_described(described)


@dead_letter.command()
@_names
@_all
@_unique_id
@_code
@click.option("--dry-run", is_flag=True, help="Only say which.")
@format_option
@click.pass_obj
def replay(
    settings: Settings,
    letters: tuple[str, ...],
    everything: bool,
    unique_id: str | None,
    code: str | None,
    dry_run: bool,
    style: str,
) -> None:
    """Send letters again to where they had been sent, oldest first, and remove them.

    Body and properties are what they were. A letter is removed when the broker has confirmed that its queue has it. Where
    there is no queue it is kept, and the exit code is 1. To replay one twice, as after an interruption, is harmless: the
    worker knows it by its unique id.
    """
    selection = Selection(names=letters, everything=everything, unique_id=unique_id, code=code)
    broker, max_bytes = _read(settings)
    outcomes: list[Outcome] = []
    done = "would be replayed" if dry_run else "replayed"
    try:
        with letterbox.opened(broker, max_bytes, keep=selection.may_want) as box:
            chosen = selection.pick(box.letters, datetime.now(UTC))
            calls = selection.individual
            if dry_run:
                outcomes.extend(Outcome(letter, objection(letter, calls=calls)) for letter in chosen)
            else:
                outcomes.extend(send_again(box, chosen, calls=calls))
    except BaseException:
        if outcomes:  # what was done until then
            _show_outcomes(outcomes, done, style)
        raise
    _show_outcomes(outcomes, done, style)
    kept = sum(outcome.kept is not None for outcome in outcomes)
    if kept:
        raise CommandFailed(f"{kept} of {len(outcomes)} dead letters are kept")


@dead_letter.command()
@_names
@_all
@_unique_id
@_code
@click.option(
    "--older-than",
    "older_than_seconds",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="Those parked before that.",
)
@click.option("--yes", is_flag=True, help="Do it: without, it is only said how many there are.")
@format_option
@click.pass_obj
def purge(
    settings: Settings,
    letters: tuple[str, ...],
    everything: bool,
    unique_id: str | None,
    code: str | None,
    older_than_seconds: int | None,
    yes: bool,
    style: str,
) -> None:
    """Remove letters for good. --reason and --older-than together mean those for which both hold."""
    selection = Selection(
        names=letters, everything=everything, unique_id=unique_id, code=code, older_than_seconds=older_than_seconds
    )
    broker, max_bytes = _read(settings)
    count = _empty(broker, yes) if everything else _remove(broker, max_bytes, selection, yes)
    if not yes:
        raise CommandFailed(f"{count} dead letters would be removed; say --yes to do it")
    if style == JSON:
        show_json({"removed": count})
    else:
        click.echo(f"Removed {count} dead letters.")


def _empty(broker: BrokerSettings, yes: bool) -> int:
    """The whole queue at once, however much that is."""
    with letterbox.locked(broker) as connection:
        count = letterbox.ready(connection, broker.dead_letter_queue)
        return int(connection.channel().queue_purge(broker.dead_letter_queue)) if yes and count else count


def _remove(broker: BrokerSettings, max_bytes: int, selection: Selection, yes: bool) -> int:
    with letterbox.opened(broker, max_bytes) as box:
        chosen = selection.pick(box.letters, datetime.now(UTC))
        if yes:
            for letter in chosen:
                box.remove(letter)
    return len(chosen)


def _read(settings: Settings) -> tuple[BrokerSettings, int]:
    conf = settings.load()
    keep_logs_quiet(conf)
    return read_settings(conf), conf.bus.max_body_bytes


def _row(letter: Letter) -> Iterator[Any]:
    time = None if letter.time is None else letter.time.strftime("%Y-%m-%dT%H:%M:%SZ")
    yield from (letter.number, letter.id, time, letter.code, letter.method, letter.host, letter.instance)
    yield from (letter.target, letter.size, letter.text)


def _show_outcomes(outcomes: list[Outcome], done: str, style: str) -> None:
    if style == JSON:
        show_json([{**summary(one.letter), "replayed": one.kept is None, "kept": one.kept} for one in outcomes])
        return
    rows = []
    for outcome in outcomes:
        letter = outcome.letter
        said = f"kept: {outcome.kept}" if outcome.kept else done
        if letter.problem is not None and not outcome.kept:
            said += f"; it will come back, as the worker cannot read it: {letter.problem}"
        rows.append((letter.number, letter.id, letter.method, letter.host, letter.instance, letter.target, said))
    show_table(_DONE, rows, empty="There is nothing to replay.")
