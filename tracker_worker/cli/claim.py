# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker claim``: list claims from the store; begin, renew and end them over the broker, as a scheduler does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from uuid import uuid4

import click

from tracker_worker.cli.context import CommandFailed, Commands, Settings, example
from tracker_worker.cli.failures import NOT_FOUND
from tracker_worker.cli.output import (
    JSON,
    format_option,
    others,
    show_fields,
    show_json,
    show_table,
    table_options,
    to_seconds,
)
from tracker_worker.cli.table import column, figure, prose
from tracker_worker.domain.resources import CLASSES

_COLUMNS = (
    column("Claim"),
    column("Instance", 1),
    column("Host", 2),
    column("Node", 2),
    *(figure(klass.name, 4) for klass in CLASSES),
    column("Begun", 5),
    column("Expires", 3),
    column("Limits from", 7),
    prose("Others", 6),
)


class _Amount(click.ParamType):
    """CLASS=AMOUNT, as a pair. The worker checks the name."""

    name = "class=amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        name, sign, amount = value.partition("=")
        if not sign or not name or not amount.isdecimal():
            self.fail(f"{value!r} is not CLASS=AMOUNT, such as VGPU=1", param, ctx)
        return name, int(amount)


_AMOUNT = _Amount()
_SIZE = click.IntRange(min=0)
_LIMIT = click.FloatRange(min=0)

_host_option = click.option("--host", required=True, help="Ask the worker of this host.")
_wait_option = click.option(
    "--wait",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="Wait this long for the answer.  [default: [DEFAULT] rpc_response_timeout]",
)


@click.group(cls=Commands, epilog=example("claim list"))
def claim() -> None:
    """List, begin, renew, finish and abort claims.

    'list' reads the database. The others ask the host's worker over the broker, as a scheduler does.
    """


@claim.command("list", epilog=example("claim list --host h1"))
@click.option("--host", help="List only the claims of this host.")
@click.option("--node", help="List only the claims of this node.")
@table_options
@click.pass_obj
def list_(settings: Settings, host: str | None, node: str | None, style: str) -> None:
    """List the claims that have not ended, by claim id. Read from the database; no worker needs to run.

    The ids that workers make are in the order of the times when the claims began.
    """
    claims = _read_claims(settings, host, node)
    if style == JSON:
        show_json(claims)
    else:
        show_table(_COLUMNS, _rows(claims), empty="There are no claims.")


@claim.command(
    epilog=example(
        "claim begin --host h1 --vcpus 2 --memory-mb 4096 --root-gb 40",
        "claim begin --host h1 --vcpus 2 --memory-mb 4096 \\",
        "    --root-gb 40 --project p1 --limit-vcpu 16 --limit VGPU=4",
    )
)
@_host_option
@click.option("--node", help="Charge this node; required when the host has several.")
@click.option("--uuid", help="The instance's uuid.  [default: a new uuid]")
@click.option("--vcpus", type=_SIZE, required=True, help="Virtual CPUs.")
@click.option("--memory-mb", type=_SIZE, required=True, help="Memory in MB.")
@click.option("--root-gb", type=_SIZE, required=True, help="Root disk in GB.")
@click.option("--ephemeral-gb", type=_SIZE, default=0, show_default=True, help="Ephemeral disk in GB.")
@click.option(
    "--resource",
    "resources",
    type=_AMOUNT,
    multiple=True,
    metavar="CLASS=AMOUNT",
    help="An amount of a custom resource class; may be given more than once.",
)
@click.option("--project", help="Charge this project (its id).")
@click.option("--user", help="The user (id) on whose behalf the claim is made.")
@click.option("--limit-vcpu", type=_LIMIT, help="Limit on the node's total usage of virtual CPUs.")
@click.option(
    "--limit-memory-mb", type=_LIMIT, help="Limit on the node's total usage of memory in MB, reserve included."
)
@click.option("--limit-disk-gb", type=_LIMIT, help="Limit on the node's total usage of disk in GB, reserve included.")
@click.option(
    "--limit",
    "more_limits",
    type=_AMOUNT,
    multiple=True,
    metavar="CLASS=AMOUNT",
    help="Limit on the node's total usage of a resource class, reserve included; may be given more than once.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Expire the claim after this time.  [default: the worker's [tracker] claim_timeout_seconds]",
)
@click.option("--claim-id", help="The claim's id, which no other claim has.  [default: the worker makes one]")
@click.option(
    "--on-expiry",
    type=click.Choice(["keep", "release"]),
    help="What happens to the allocation when the claim expires.  [default: the worker's [tracker] expired_claims]",
)
@_wait_option
@format_option
@click.pass_obj
def begin(
    settings: Settings,
    host: str,
    node: str | None,
    uuid: str | None,
    vcpus: int,
    memory_mb: int,
    root_gb: int,
    ephemeral_gb: int,
    resources: Sequence[tuple[str, int]],
    project: str | None,
    user: str | None,
    limit_vcpu: float | None,
    limit_memory_mb: float | None,
    limit_disk_gb: float | None,
    more_limits: Sequence[tuple[str, int]],
    timeout: float | None,
    claim_id: str | None,
    on_expiry: Literal["keep", "release"] | None,
    wait: int | None,
    style: str,
) -> None:
    """Begin a claim: charge an instance to a node within limits.

    The claim lasts until it is finished, is aborted or expires. A claim that exceeds its limits is refused with exit code 1
    and a sentence that names every shortfall. A resource without a limit is treated as the worker's [tracker]
    missing_limit says, by default as unlimited.
    """
    from tracker_worker.cli.rpc import request_context, scheduler

    instance = {
        "uuid": str(uuid4()) if uuid is None else uuid,
        "vcpus": vcpus,
        "memory_mb": memory_mb,
        "root_gb": root_gb,
        "ephemeral_gb": ephemeral_gb,
        "project_id": project,
        "user_id": user,
        "vm_state": "building",
        **({} if node is None else {"node": node}),
        **({"resources": dict(resources)} if resources else {}),
    }
    limit_options = {"vcpu": limit_vcpu, "memory_mb": limit_memory_mb, "disk_gb": limit_disk_gb}
    limits = {name: limit for name, limit in limit_options.items() if limit is not None} | dict(more_limits)
    with scheduler(settings, host, wait) as api:
        begun = api.begin_resource_claim(
            request_context(project, user),
            host,
            instance,
            limits or None,
            timeout,
            claim_id=claim_id,
            on_expiry=on_expiry,
        )
    if style == JSON:
        show_json(begun)
    elif begun is None:
        click.echo("The node is unsupported: nothing is tracked there, and the build needs no claim.")
    else:
        show_fields(_fields(begun))


@claim.command(epilog=example("claim finish 019bc187-7a40-7000-97e7-7bad5d85d1c6 --host h1"))
@click.argument("claim_id")
@_host_option
@_wait_option
@format_option
@click.pass_obj
def finish(settings: Settings, claim_id: str, host: str, wait: int | None, style: str) -> None:
    """Finish a claim after a build that succeeded. The instance stays charged."""
    _ask("finish_resource_claim", settings, claim_id, host, wait, style)


@claim.command(epilog=example("claim abort 019bc187-7a40-7000-97e7-7bad5d85d1c6 --host h1"))
@click.argument("claim_id")
@_host_option
@_wait_option
@format_option
@click.pass_obj
def abort(settings: Settings, claim_id: str, host: str, wait: int | None, style: str) -> None:
    """Abort a claim after a build that failed. The instance's resources are released."""
    _ask("abort_resource_claim", settings, claim_id, host, wait, style)


@claim.command(epilog=example("claim renew 019bc187-7a40-7000-97e7-7bad5d85d1c6 --host h1"))
@click.argument("claim_id")
@_host_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Expire the claim this long from now.  [default: the worker's [tracker] claim_timeout_seconds]",
)
@_wait_option
@format_option
@click.pass_obj
def renew(settings: Settings, claim_id: str, host: str, timeout: float | None, wait: int | None, style: str) -> None:
    """Renew a claim, for a build that takes longer. It never expires earlier than it would have."""
    _ask("renew_resource_claim", settings, claim_id, host, wait, style, timeout=timeout)


def _ask(
    method: str, settings: Settings, claim_id: str, host: str, wait: int | None, style: str, **args: float | None
) -> None:
    from tracker_worker.cli.rpc import request_context, scheduler

    with scheduler(settings, host, wait) as api:
        answered = getattr(api, method)(request_context(), host, claim_id, **args)
    if answered is None:
        raise CommandFailed(
            f"host {host} has no claim {claim_id}: it never began, or it has ended already",
            code=NOT_FOUND,
            host=host,
            claim_id=claim_id,
        )
    if style == JSON:
        show_json(answered)
    else:
        show_fields(_fields(answered))


def _read_claims(settings: Settings, host: str | None, node: str | None) -> list[dict[str, Any]]:
    """The views of claims that have not ended, by claim_id.

    Raises CommandFailed: the host does not exist, or none of the hosts has the node.
    """
    from tracker_worker.cli.ledgers import load_hosts, opened_store
    from tracker_worker.domain.views import each_claim_view

    with opened_store(settings.load(messaging=False)) as store:
        ledgers = [ledger for loaded in load_hosts(store, host) for ledger in loaded]
    if node is not None:
        ledgers = [ledger for ledger in ledgers if ledger.name == node]
        if not ledgers:
            where = "the database" if host is None else f"host {host}"
            raise CommandFailed(f"{where} has no node {node}", code=NOT_FOUND, host=host, node=node)
    return list(each_claim_view(ledgers))


def _rows(claims: list[dict[str, Any]]) -> Iterator[Sequence[Any]]:
    for view in claims:
        amounts = [view["resources"][klass.name] for klass in CLASSES]
        times = (to_seconds(view["begun_at"]), to_seconds(view["expires_at"]))
        yield (
            view["claim_id"],
            view["instance_uuid"],
            view["host"],
            view["node"],
            *amounts,
            *times,
            view["limit_source"],
            others(view["resources"]),
        )


def _fields(view: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in view.items():
        if name == "resources":
            yield from value.items()
        else:
            yield name, value
