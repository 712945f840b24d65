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
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import owner_of, read_changes, read_instance, read_node
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.queries import GetNode, GetUsage, ListClaims, ListNodes, Query
from tracker_worker.domain.values import read_name, read_optional_text, read_timeout
from tracker_worker.errors import HostNotServed, InvalidInput
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion
from tracker_worker.wire.request import Request

# An addition raises the minor version; a client may ask for any minor version up to this one.
MAJOR, MINOR = 1, 0


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """Read the inventory of one node or of all nodes, and expire claims that are due."""

    node: str | None


class Ping(msgspec.Struct, frozen=True):
    """Answer "pong"."""


Action = commands.Command | Query | Audit | Ping
Context = Mapping[str, Any]


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


def _begin(args: Mapping[str, Any], context: Context, policy: Policy) -> Action:
    instance = read_instance(args["instance"], policy.max_field_bytes)
    owner = owner_of(instance.project_id, instance.user_id, context)
    timeout = read_timeout("timeout", args.get("timeout"))
    return commands.BeginClaim(
        instance=instance.changed(owner),
        node=read_node(args["instance"]),
        limits=read_limits(args.get("limits")),
        timeout=policy.claim_timeout if timeout is None else timeout,
        capacity_limits=policy.capacity_limits,
    )


def _update(args: Mapping[str, Any], _context: Context, policy: Policy) -> Action:
    changes = read_changes(args["instance"], policy.max_field_bytes)
    return commands.UpdateUsage(uuid=changes["uuid"], changes=changes, node=read_node(args["instance"]))


def _node(args: Mapping[str, Any]) -> str | None:
    return None if args.get("node") is None else read_name("node", args["node"])


METHODS: dict[str, _Method] = {
    "begin_resource_claim": _Method(build=_begin, required=("instance",), optional=("limits", "timeout")),
    "finish_resource_claim": _Method(
        build=lambda args, *_: commands.FinishClaim(claim_id=read_name("claim_id", args["claim_id"])),
        required=("claim_id",),
    ),
    "abort_resource_claim": _Method(
        build=lambda args, *_: commands.AbortClaim(claim_id=read_name("claim_id", args["claim_id"])),
        required=("claim_id",),
    ),
    "update_usage": _Method(build=_update, required=("instance",)),
    "update_available_resource": _Method(build=lambda args, *_: Audit(node=_node(args)), optional=("node",)),
    "get_node": _Method(build=lambda args, *_: GetNode(node=_node(args)), optional=("node",)),
    "list_nodes": _Method(build=lambda *_: ListNodes(), any_host=True),
    "list_claims": _Method(build=lambda args, *_: ListClaims(node=_node(args)), optional=("node",)),
    "get_usage": _Method(
        build=lambda args, *_: GetUsage(project_id=read_optional_text("project_id", args.get("project_id"))),
        optional=("project_id",),
        any_host=True,
    ),
    "oslo_rpc_server_ping": _Method(build=lambda *_: Ping(), any_host=True),
}


def resolve(request: Request, *, source: str, served: Sequence[str], policy: Policy) -> Operation:
    """The operation that ``request`` asks for. ``source`` is that of its delivery, ``served`` the hosts of this worker.

    Raises UnsupportedVersion, NoSuchMethod, HostNotServed, and InvalidInput naming the argument.
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
