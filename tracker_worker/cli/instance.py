# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker instance``: what instances are charged for, and what operators do about it, in the database."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

from tracker_worker.cli.administration import administration
from tracker_worker.cli.context import CommandFailed, Commands, Settings, example
from tracker_worker.cli.failures import NOT_FOUND
from tracker_worker.cli.operator import user
from tracker_worker.cli.output import (
    JSON,
    format_option,
    others,
    plain,
    show_fields,
    show_json,
    stream_json,
    stream_table,
    table_options,
    to_seconds,
)
from tracker_worker.cli.table import column, figure, prose
from tracker_worker.domain.resources import CLASSES

if TYPE_CHECKING:
    from tracker_worker.store.base import Store

_PAGE = 1000
_ROLES = ("instance", "incoming", "hold")
_COLUMNS = (
    column("Instance"),
    column("Host", 1),
    column("Node", 1),
    column("Project", 4),
    column("State", 3),
    column("Role", 6),
    *(figure(klass.name, 2) for klass in CLASSES),
    column("Claim", 5),
    column("Since", 8),
    prose("Others", 7),
)
# More instances than a hypervisor can run; a larger file is not a list of uuids.
_MOST_FILE_BYTES = 64 * 1024 * 1024


@click.group(cls=Commands, epilog=example("instance list"))
def instance() -> None:
    """List, show and release what instances are charged for, adopt instances, and compare with what runs.

    All subcommands work in the database; no worker needs to run, and one that runs sees the change.
    """


@instance.command("list", epilog=example("instance list --host h1 --format json"))
@click.option("--host", help="List only what is charged on this host.")
@click.option("--node", help="List only what is charged on nodes of this name.")
@click.option("--project", help="List only what this project is charged for.")
@table_options
@click.pass_obj
def list_(settings: Settings, host: str | None, node: str | None, project: str | None, style: str) -> None:
    """List what is charged, by instance.

    VCPU in virtual CPUs, MEMORY_MB in MB, DISK_GB in GB; Others are the custom classes. Claim is the state of the claim that
    charged the instance: an expired one left the instance charged.
    """
    with _without_garbage_collection():
        _list(settings, host, node, project, style)


def _list(settings: Settings, host: str | None, node: str | None, project: str | None, style: str) -> None:
    from tracker_worker.cli.ledgers import opened_store

    with opened_store(settings.load(messaging=False)) as store:
        _check_names(store, host, node)
        pages = _pages(store, host=host, node=node, project_id=project)
        if style == JSON:
            stream_json(pages)
        else:
            stream_table(_COLUMNS, ([_row(view) for view in page] for page in pages), empty="There are no instances.")


@instance.command(epilog=example("instance show 9e3a6f0b-8d5c-4f6f-9d6a-1c2b3e4f5a6b"))
@click.argument("uuid")
@click.option("--host", help="The host; required when the instance is charged on several hosts.")
@format_option
@click.pass_obj
def show(settings: Settings, uuid: str, host: str | None, style: str) -> None:
    """Show what one instance is charged for."""
    from tracker_worker.cli.ledgers import opened_store

    with opened_store(settings.load(messaging=False)) as store:
        view = _find(store, uuid, host)
    _show(view, style)


@instance.command(
    epilog=example(
        "instance release 9e3a6f0b-8d5c-4f6f-9d6a-1c2b3e4f5a6b \\",
        "    --host h1 --reason 'deleted by hand'",
    )
)
@click.argument("uuid")
@click.option("--host", required=True, help="The host that is charged for the instance.")
@click.option("--reason", required=True, help="Why; the notification and the answer say it.")
@format_option
@click.pass_obj
def release(settings: Settings, uuid: str, host: str, reason: str, style: str) -> None:
    """Release what an instance is charged for, because it is known to be gone.

    A claim that has begun ends with it. The notification tracker.usage.released says who released it, and why.
    """
    from tracker_worker.domain.commands import ReleaseAllocation
    from tracker_worker.domain.values import read_id, read_name

    name = read_id("instance_uuid", uuid)
    command = ReleaseAllocation(uuid=name, reason=read_name("reason", reason.strip()), released_by=user())
    with administration(settings, "instance release") as (_, operator):
        released = operator.decide(host, command)
    if released is None:
        raise CommandFailed(
            f"host {host} is charged nothing for instance {name}", code=NOT_FOUND, host=host, instance_uuid=name
        )
    _show(released, style)


@instance.command(epilog=example("cat running.json | tracker-worker instance adopt --host h1 --file -"))
@click.option("--host", required=True, help="The host on which the instances run.")
@click.option("--node", help="The node of those instances that name none; required when the host has several.")
@click.option("--project", help="The project (its id) of those instances that name none.")
@click.option(
    "--file",
    "running",
    type=click.File("rb"),
    required=True,
    help="The instances as JSON: one list, or one object a line; - is standard input.",
)
@format_option
@click.pass_context
def adopt(ctx: click.Context, host: str, node: str | None, project: str | None, running: IO[bytes], style: str) -> None:
    """Charge instances that run already and were never claimed, whatever the limits.

    An instance has the keys of a claim's: uuid, vcpus, memory_mb, root_gb, ephemeral_gb, and perhaps node, swap, resources,
    project_id and so on. Each is adopted, was charged already, or is refused, by itself; it can be done again. Exit code 1 if
    one is refused.
    """
    from tracker_worker.conf.policy import read_policy
    from tracker_worker.domain.adoption import MOST_ADOPTED, read_adoption

    instances = [
        {"node": node, **each} if node is not None and isinstance(each, dict) else each for each in _read_json(running)
    ]
    policy = read_policy(ctx.obj.load(messaging=False))
    pieces = [instances[start : start + MOST_ADOPTED] for start in range(0, len(instances), MOST_ADOPTED)]
    orders = [read_adoption(piece, {"project_id": project}, policy) for piece in pieces]
    result: dict[str, list[Any]] = {"adopted": [], "already": [], "refused": []}
    with administration(ctx.obj, "instance adopt") as (_, operator):
        for order in orders:
            for name, found in operator.decide(host, order).items():
                result[name] += found
    if style == JSON:
        show_json(result)
    else:
        click.echo(f"adopted: {len(result['adopted'])}, charged already: {len(result['already'])}")
        click.echo(f"refused: {len(result['refused'])}")
        for refusal in result["refused"]:
            click.echo(f"  {plain(refusal['instance_uuid'])}: {plain(refusal['message'])}")
    if result["refused"]:
        ctx.exit(1)


@instance.command(epilog=example("virsh list --uuid | tracker-worker instance compare --host h1 --file -"))
@click.option("--host", required=True, help="The host to compare.")
@click.option("--node", help="The node to compare; required when the host has several.")
@click.option(
    "--file",
    "running",
    type=click.File("rb"),
    required=True,
    help="The uuids of the instances that run there, one a line; - is standard input.",
)
@format_option
@click.pass_context
def compare(ctx: click.Context, host: str, node: str | None, running: IO[bytes], style: str) -> None:
    """Compare what a node is charged for with the instances that really run there.

    Exit code 1 if there is a difference, which is also published as tracker.node.drift. Instances whose claim has begun are
    building: they may run or not. Nothing is repaired.
    """
    from tracker_worker.domain.commands import CompareInstances

    command = CompareInstances(node=node, uuids=_read_uuids(running))
    with administration(ctx.obj, "instance compare") as (_, operator):
        found: dict[str, list[str]] = operator.decide(host, command)
    if style == JSON:
        show_json(found)
    else:
        for what, uuids in found.items():
            click.echo(f"{what.replace('_', ' ')}: {len(uuids)}")
            for uuid in uuids:
                click.echo(f"  {uuid}")
    if found["charged_not_running"] or found["running_not_charged"]:
        ctx.exit(1)


def _read_uuids(running: IO[bytes]) -> frozenset[str]:
    """The uuids in a file, one a line; empty lines do not count. Raises CommandFailed, InvalidInput, which names the line."""
    from tracker_worker.domain.values import read_id

    return frozenset(read_id(f"{running.name}, line {number}", line) for number, line in _lines(_read_text(running)))


def _read_json(running: IO[bytes]) -> list[Any]:
    """The values in a file: those of one JSON list, or one a line. Raises CommandFailed, which names the place."""
    text = _read_text(running)
    if text.lstrip().startswith("["):
        values: list[Any] = _parse_json(text, running.name)
        return values
    return [_parse_json(line, f"{running.name}, line {number}") for number, line in _lines(text)]


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandFailed(f"{where} is not JSON: {error}") from None


def _read_text(running: IO[bytes]) -> str:
    """The content of a file. Raises CommandFailed: it is too large, or no text."""
    content = running.read(_MOST_FILE_BYTES + 1)
    if len(content) > _MOST_FILE_BYTES:
        raise CommandFailed(f"{running.name} has more than {_MOST_FILE_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise CommandFailed(f"{running.name} is not text in UTF-8") from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The number and the content of each line that is not empty."""
    for number, line in enumerate(text.splitlines(), start=1):
        if stripped := line.strip():
            yield number, stripped


def _check_names(store: Store, host: str | None, node: str | None) -> None:
    """Raises CommandFailed: the database has no such host, or none of its hosts has ever had such a node."""
    names = store.host_names()
    if host is not None and host not in names:
        raise CommandFailed(f"the database has no host {host}", code=NOT_FOUND, host=host)
    asked = names if host is None else [host]
    if node is not None and not any(stream.node == node for name in asked for stream in store.streams(name)):
        where = "the database" if host is None else f"host {host}"
        raise CommandFailed(f"{where} has no node {node}", code=NOT_FOUND, host=host, node=node)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Do not look for objects that only refer to each other. Rows have none, and the look takes a third of the time in which
    100,000 of them are listed."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _pages(store: Store, **only: str | None) -> Iterator[list[dict[str, Any]]]:
    """What is charged, page by page: one page is in memory at a time."""
    from tracker_worker.domain.views import charge_view

    after: tuple[str, str] | None = None
    while page := store.allocations(**only, after=after, limit=_PAGE):
        yield [charge_view(host, node, held) for host, node, held in page]
        after = page[-1][2].uuid, page[-1][2].id


def _find(store: Store, uuid: str, host: str | None) -> Mapping[str, Any]:
    """What an instance is charged for on one host. Raises CommandFailed: nothing, or on several hosts."""
    from tracker_worker.domain.values import read_id
    from tracker_worker.domain.views import charge_view

    name = read_id("instance_uuid", uuid)
    page = store.allocations(host=host, after=(name, ""), limit=_PAGE)
    found = [charge_view(at, node, held) for at, node, held in page if held.uuid == name]
    if not found:
        where = "on any host" if host is None else f"on host {host}"
        raise CommandFailed(
            f"instance {name} is charged nothing {where}", code=NOT_FOUND, host=host, instance_uuid=name
        )
    if len(hosts := sorted({view["host"] for view in found})) > 1:
        raise CommandFailed(
            f"instance {name} is charged on several hosts, name one of them with --host: {', '.join(hosts)}"
        )
    return min(found, key=lambda view: _ROLES.index(view["role"]))


def _show(view: Mapping[str, Any], style: str) -> None:
    if style == JSON:
        show_json(view)
        return
    fields = {**view, **view["resources"]}
    del fields["resources"]
    show_fields(fields.items())


def _row(view: Mapping[str, Any]) -> Sequence[Any]:
    amounts = [view["resources"][klass.name] for klass in CLASSES]
    place = (view["instance_uuid"], view["host"], view["node"], view["project_id"] or "(none)")
    claim = (view["claim_state"], to_seconds(view["begun_at"]))
    return (*place, view["vm_state"], view["role"], *amounts, *claim, others(view["resources"]))
