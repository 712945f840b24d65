# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker move``: show moves from the database; begin them and take their steps over the broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any, Literal
from uuid import uuid4

import click

from tracker_worker.cli.context import CommandFailed, Commands, Settings, example
from tracker_worker.cli.failures import NOT_FOUND
from tracker_worker.cli.output import JSON, format_option, show_fields, show_json, show_table, table_options, to_seconds
from tracker_worker.cli.table import column
from tracker_worker.domain.move import KINDS

_COLUMNS = (
    column("Move"),
    column("Kind", 5),
    column("Instance", 3),
    column("State", 1),
    column("From host", 2),
    column("From node", 6),
    column("To host", 2),
    column("To node", 6),
    column("Begun", 4),
    column("Handed over", 4),
)
_SIZE = click.IntRange(min=0)
_LIMIT = click.FloatRange(min=0)

_host_option = click.option("--host", required=True, help="Ask the worker of this host.")
_wait_option = click.option(
    "--wait",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="Wait this long for the answer.  [default: [DEFAULT] rpc_response_timeout]",
)
_told_option = click.option(
    "--move",
    "told",
    type=click.File(encoding="utf-8"),
    help="What the destination has answered, as JSON ('move show ID --format json' there); for a source whose database does "
    "not have the destination.",
)
_at_option = click.option(
    "--at",
    metavar="TIME",
    help="When it happened, ISO 8601.  [default: at the source, when it happened at the destination, if known; else now]",
)


@click.group(cls=Commands, epilog=example("move list"))
def move() -> None:
    """Show moves of instances, begin them, and take their steps.

    'list' and 'show' read the database. The others ask a host's worker over the broker, as a scheduler does: first that of the
    destination, then that of the source. Each step has its effect once, however often it is sent.
    """


@move.command("list", short_help="List the moves that are not over.", epilog=example("move list"))
@table_options
@click.pass_obj
def list_(settings: Settings, style: str) -> None:
    """List the moves that are not over, by id.

    A host is charged for what is incoming or on hold, or the source was not told of the hand-over and is charged as before. A
    source in another database is listed there, once it was told.
    """
    from tracker_worker.cli.move_records import unfinished

    found = unfinished(settings)
    if style == JSON:
        show_json(found)
    else:
        show_table(_COLUMNS, map(_row, found), empty="There are no open moves.")


@move.command(short_help="Show a move.", epilog=example("move show 019bc187-7a40-7000-97e7-7bad5d85d1c6"))
@click.argument("move_id")
@format_option
@click.pass_obj
def show(settings: Settings, move_id: str, style: str) -> None:
    """Show a move, as the host knows it on which it has got furthest."""
    from tracker_worker.cli.move_records import recorded

    found = recorded(settings, move_id)
    if found is None:
        raise CommandFailed(
            f"no host knows a move {move_id}: it never began, or it is older than [tracker] move_memory_hours",
            code=NOT_FOUND,
            move_id=move_id,
        )
    _show(found, style)


@move.command(
    short_help="Begin a move.",
    epilog=example(
        "move begin --host h2 --kind migration --vcpus 2 \\",
        "    --memory-mb 4096 --root-gb 40 --from-host h1 \\",
        "    --uuid 9e3a6f0b-8d5c-4f6f-9d6a-1c2b3e4f5a6b",
    ),
)
@_host_option
@click.option("--uuid", required=True, help="The instance's uuid.")
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What the move is for.")
@click.option("--node", help="Charge this node; required when the host has several.")
@click.option("--vcpus", type=_SIZE, required=True, help="Virtual CPUs at the destination.")
@click.option("--memory-mb", type=_SIZE, required=True, help="Memory in MB at the destination.")
@click.option("--root-gb", type=_SIZE, required=True, help="Root disk in GB at the destination.")
@click.option(
    "--ephemeral-gb", type=_SIZE, default=0, show_default=True, help="Ephemeral disk in GB at the destination."
)
@click.option("--from-host", help="The host that the instance leaves.  [default: this one, or unknown]")
@click.option("--from-node", help="The node that the instance leaves.")
@click.option("--project", help="Charge this project (its id).")
@click.option("--user", help="The user (id) on whose behalf the instance is moved.")
@click.option("--limit-vcpu", type=_LIMIT, help="Limit on the node's total usage of virtual CPUs.")
@click.option("--limit-memory-mb", type=_LIMIT, help="Limit on the node's total usage of memory in MB.")
@click.option("--limit-disk-gb", type=_LIMIT, help="Limit on the node's total usage of disk in GB.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Expire the move after this time.  [default: the worker's [tracker] claim_timeout_seconds]",
)
@click.option("--move-id", help="The move's id, which no other move has.  [default: a new uuid]")
@click.option(
    "--on-expiry",
    type=click.Choice(["keep", "release"]),
    help="What happens to what is incoming when the move expires.  [default: the worker's [tracker] expired_claims]",
)
@_wait_option
@format_option
@click.pass_obj
def begin(
    settings: Settings,
    host: str,
    uuid: str,
    kind: str,
    node: str | None,
    vcpus: int,
    memory_mb: int,
    root_gb: int,
    ephemeral_gb: int,
    from_host: str | None,
    from_node: str | None,
    project: str | None,
    user: str | None,
    limit_vcpu: float | None,
    limit_memory_mb: float | None,
    limit_disk_gb: float | None,
    timeout: float | None,
    move_id: str | None,
    on_expiry: Literal["keep", "release"] | None,
    wait: int | None,
    style: str,
) -> None:
    """Begin a move: charge the destination for an instance within limits. The source is charged as before."""
    from tracker_worker.cli.rpc import request_context, scheduler

    instance = {
        "uuid": uuid,
        "vcpus": vcpus,
        "memory_mb": memory_mb,
        "root_gb": root_gb,
        "ephemeral_gb": ephemeral_gb,
        "project_id": project,
        "user_id": user,
        **({} if node is None else {"node": node}),
    }
    limit_options = {"vcpu": limit_vcpu, "memory_mb": limit_memory_mb, "disk_gb": limit_disk_gb}
    limits = {name: limit for name, limit in limit_options.items() if limit is not None} or None
    beginning = {"id": move_id or str(uuid4()), "kind": kind, "from_host": from_host, "from_node": from_node}
    context = request_context(project, user)
    with scheduler(settings, host, wait) as api:
        begun = api.begin_move_claim(context, host, instance, beginning, limits, timeout, on_expiry=on_expiry)
    _show(begun, style)


@move.command(
    short_help="Hand the instance over.",
    epilog=example("move finish 019bc187-7a40-7000-97e7-7bad5d85d1c6 --host h2"),
)
@click.argument("move_id")
@_host_option
@_at_option
@_told_option
@_wait_option
@format_option
@click.pass_obj
def finish(
    settings: Settings,
    move_id: str,
    host: str,
    at: str | None,
    told: IO[str] | None,
    wait: int | None,
    style: str,
) -> None:
    """Hand the instance over: at the destination first, then at the source."""
    _step("finish_move", settings, move_id, host, told, wait, style, at)


@move.command(
    short_help="Release what the source holds.",
    epilog=example("move confirm 019bc187-7a40-7000-97e7-7bad5d85d1c6 --host h1"),
)
@click.argument("move_id")
@_host_option
@_told_option
@_wait_option
@format_option
@click.pass_obj
def confirm(settings: Settings, move_id: str, host: str, told: IO[str] | None, wait: int | None, style: str) -> None:
    """Release what the source holds for a revert, after the hand-over of a resize or a migration.

    A source that was not told of the hand-over takes it first.
    """
    _step("confirm_move", settings, move_id, host, told, wait, style)


@move.command(
    short_help="Take the hand-over back.",
    epilog=example("move revert 019bc187-7a40-7000-97e7-7bad5d85d1c6 --host h2"),
)
@click.argument("move_id")
@_host_option
@_at_option
@_told_option
@_wait_option
@format_option
@click.pass_obj
def revert(
    settings: Settings,
    move_id: str,
    host: str,
    at: str | None,
    told: IO[str] | None,
    wait: int | None,
    style: str,
) -> None:
    """Take the hand-over back: at the destination first, then at the source. It is never refused for want of room."""
    _step("revert_move", settings, move_id, host, told, wait, style, at)


@move.command(
    short_help="End a move before its hand-over.",
    epilog=example("move abort 019bc187-7a40-7000-97e7-7bad5d85d1c6 --host h2"),
)
@click.argument("move_id")
@_host_option
@_told_option
@_wait_option
@format_option
@click.pass_obj
def abort(settings: Settings, move_id: str, host: str, told: IO[str] | None, wait: int | None, style: str) -> None:
    """End a move before its hand-over: release what is incoming at the destination."""
    _step("abort_move", settings, move_id, host, told, wait, style)


@move.command(
    short_help="Note that a move has failed.",
    epilog=example("move fail 019bc187-7a40-7000-97e7-7bad5d85d1c6 --host h2"),
)
@click.argument("move_id")
@_host_option
@_told_option
@_wait_option
@format_option
@click.pass_obj
def fail(settings: Settings, move_id: str, host: str, told: IO[str] | None, wait: int | None, style: str) -> None:
    """Note that a move has failed: both sides stay charged until it is aborted or confirmed."""
    _step("fail_move", settings, move_id, host, told, wait, style)


def _step(
    method: str,
    settings: Settings,
    move_id: str,
    host: str,
    told: IO[str] | None,
    wait: int | None,
    style: str,
    at: str | None = None,
) -> None:
    from tracker_worker.cli.move_records import effective, read, recorded
    from tracker_worker.cli.rpc import request_context, scheduler

    given = recorded(settings, move_id) if told is None else read(told)
    effective_at = at or effective(method, given, host)
    more = {} if effective_at is None else {"effective_at": effective_at}
    with scheduler(settings, host, wait) as api:
        done = getattr(api, method)(request_context(), host, move_id, move=given, **more)
    _show(done, style)


def _row(view: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        view["id"],
        view["kind"],
        view["instance_uuid"],
        view["state"],
        view["from_host"],
        view["from_node"],
        view["to_host"],
        view["to_node"],
        to_seconds(view["begun_at"]),
        to_seconds(view["finished_at"]) if view["finished_at"] else "-",
    )


def _show(view: Mapping[str, Any], style: str) -> None:
    if style == JSON:
        show_json(view)
    else:
        show_fields(_fields(view))


def _fields(view: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in view.items():
        if isinstance(value, Mapping):
            yield name, ", ".join(f"{key}: {amount}" for key, amount in value.items()) or "-"
        else:
            yield name, value
