# SPDX-License-Identifier: Apache-2.0
"""The RPC API: one table from a method's name to the operation that it asks for, and the checks before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tracker_worker.bus.base import FANOUT, PING, SHARED
from tracker_worker.domain import commands
from tracker_worker.domain.move import ABORT, CONFIRM, FAIL, FINISH, REVERT
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.queries import GetAllocation, GetNode, GetUsage, ListNodes, Query, StoredQuery
from tracker_worker.domain.values import read_id, read_name, read_optional_text
from tracker_worker.errors import HostNotServed, InvalidInput
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion
from tracker_worker.service.requests import arguments, moves
from tracker_worker.service.requests.arguments import Context
from tracker_worker.wire.request import Request
from tracker_worker.wire.versions import MAJOR, MINOR


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """Read the inventory of one node or of all nodes, and expire claims that are due."""

    node: str | None


class Ping(msgspec.Struct, frozen=True):
    """Answer "pong"."""


Action = commands.Command | Query | StoredQuery | Audit | Ping


class Operation(msgspec.Struct, frozen=True):
    """What one request asks for, and of which hosts."""

    hosts: tuple[str, ...]
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """``build`` gets the arguments; all of them are known and the required ones are present. ``any_host``: a request without a
    host is for all hosts that the worker serves."""

    build: Callable[[Mapping[str, Any], Context, Policy], Action]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    any_host: bool = False


METHODS: dict[str, _Method] = {
    "begin_resource_claim": _Method(
        build=arguments.begin, required=("instance",), optional=("limits", "timeout", "claim_id", "on_expiry")
    ),
    "finish_resource_claim": _Method(
        build=lambda args, *_: commands.FinishClaim(claim_id=read_id("claim_id", args["claim_id"])),
        required=("claim_id",),
    ),
    "abort_resource_claim": _Method(
        build=lambda args, *_: commands.AbortClaim(claim_id=read_id("claim_id", args["claim_id"])),
        required=("claim_id",),
    ),
    "renew_resource_claim": _Method(build=arguments.renew, required=("claim_id",), optional=("timeout",)),
    "begin_resource_claims": _Method(
        build=arguments.begin_all, required=("claims",), optional=("timeout", "on_expiry")
    ),
    "would_fit": _Method(build=arguments.would_fit, required=("instance",), optional=("limits",)),
    "update_usage": _Method(build=arguments.update, required=("instance",)),
    "update_available_resource": _Method(build=lambda args, *_: Audit(node=arguments.node(args)), optional=("node",)),
    "get_node": _Method(build=lambda args, *_: GetNode(node=arguments.node(args)), optional=("node",)),
    "list_nodes": _Method(build=lambda *_: ListNodes(), any_host=True),
    "list_claims": _Method(build=arguments.list_claims, optional=("node", "limit", "after")),
    "list_allocations": _Method(
        build=arguments.list_allocations,
        optional=("node", "project_id", "role", "state", "older_than", "limit", "after"),
    ),
    "get_allocation": _Method(
        build=lambda args, *_: GetAllocation(uuid=read_id("instance_uuid", args["instance_uuid"])),
        required=("instance_uuid",),
    ),
    "release_allocation": _Method(build=arguments.release, required=("instance_uuid", "reason")),
    "report_instances": _Method(build=arguments.compare, required=("uuids",), optional=("node",)),
    "begin_move_claim": _Method(
        build=moves.begin, required=("instance", "move"), optional=("limits", "timeout", "on_expiry")
    ),
    "finish_move": _Method(build=moves.step(FINISH), required=("move_id",), optional=("effective_at", "move")),
    "confirm_move": _Method(build=moves.step(CONFIRM), required=("move_id",), optional=("move",)),
    "revert_move": _Method(build=moves.step(REVERT), required=("move_id",), optional=("effective_at", "move")),
    "abort_move": _Method(build=moves.step(ABORT), required=("move_id",), optional=("move",)),
    "fail_move": _Method(build=moves.step(FAIL), required=("move_id",), optional=("move",)),
    "adopt": _Method(build=arguments.adopt, required=("instances",)),
    "get_usage": _Method(
        build=lambda args, *_: GetUsage(project_id=read_optional_text("project_id", args.get("project_id"))),
        optional=("project_id",),
        any_host=True,
    ),
    "get_instances": _Method(build=arguments.get_instances, required=("node",), optional=("after", "limit")),
    "get_notifications": _Method(
        build=arguments.get_notifications, required=("node",), optional=("after_sequence", "limit")
    ),
    "oslo_rpc_server_ping": _Method(build=lambda *_: Ping(), any_host=True),
}


def resolve(
    request: Request,
    *,
    source: str,
    served: Sequence[str],
    policy: Policy,
    permit: Callable[[Request, Sequence[str]], None] | None = None,
) -> Operation:
    """The operation that ``request`` asks for. ``source`` is that of its delivery, ``served`` the hosts of this worker.
    ``permit`` gets the request and its hosts, and raises NotPermitted; None: everything is permitted.

    Raises UnsupportedVersion, NoSuchMethod, HostNotServed, NotPermitted, and InvalidInput naming the argument.
    """
    _check_version(request)
    method = METHODS.get(request.method)
    if method is None:
        raise NoSuchMethod(request.method)
    args = request.args
    for name in method.required:
        if name not in args:
            raise InvalidInput(field=name, reason="is missing")
    known = (*method.required, *method.optional, "host")
    for name in args:
        if name not in known:
            raise InvalidInput(field=name, reason=f"is no argument of {request.method}")
    hosts = _hosts(request, method, source, served)
    if permit is not None:
        permit(request, hosts)
    return Operation(hosts, method.build(args, request.context, policy))


def _check_version(request: Request) -> None:
    version = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", request.version)
    served = version is not None and int(version[1]) == MAJOR and int(version[2]) <= MINOR
    if not served or request.namespace is not None:
        raise UnsupportedVersion(request.version, method=request.method)


def _hosts(request: Request, method: _Method, source: str, served: Sequence[str]) -> tuple[str, ...]:
    host = request.args.get("host")
    if host is not None:
        host = read_name("host", host)
    if source not in (SHARED, FANOUT):
        if host not in (None, source):
            raise InvalidInput(field="host", reason=f"must be {source} on its own topic")
        return (source,)
    if host is not None:
        if host not in served:
            raise HostNotServed(host=host)
        return (host,)
    if source == SHARED and not served and request.method != PING:
        raise HostNotServed(host="any")
    if method.any_host or (source == FANOUT and request.method == "update_available_resource"):
        return tuple(served)
    raise InvalidInput(field="host", reason="is missing: this topic is not of one host")
