# SPDX-License-Identifier: Apache-2.0
"""The RPC API: one table from a method's name to what it asks, and the checks in front of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from oslo_messaging.rpc.dispatcher import NoSuchMethod, UnsupportedVersion

from tracker_worker.bus.base import FANOUT, SHARED
from tracker_worker.domain import commands
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import read_changes, read_instance, read_node
from tracker_worker.domain.owner import owner_of
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import read_name, read_optional_text, read_timeout
from tracker_worker.errors import HostNotServed, InvalidInput
from tracker_worker.wire.envelope import Request

# Additions raise the minor version; a client may ask for any minor version up to ours.
MAJOR, MINOR = 1, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GetNode:
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNodes:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ListClaims:
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetUsage:
    project_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Read the inventories of one node or all, and expire what is due."""

    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    pass


Query = GetNode | ListNodes | ListClaims | GetUsage
Asked = commands.Command | Query | Audit | Ping
Context = Mapping[str, Any]


class Call(msgspec.Struct, frozen=True):
    """What one request asks, of which hosts."""

    hosts: tuple[str, ...]
    asked: Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """``build`` gets the arguments, all of them known and the required ones present. ``any_host``: without a host the
    request is for all that the worker serves."""

    build: Callable[[Mapping[str, Any], Context, Policy], Asked]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    any_host: bool = False


def _begin(args: Mapping[str, Any], context: Context, policy: Policy) -> Asked:
    instance = read_instance(args["instance"])
    owner = owner_of(instance.project_id, instance.user_id, context)
    timeout = read_timeout("timeout", args.get("timeout"))
    return commands.BeginClaim(
        instance=instance.changed(owner),
        node=read_node(args["instance"]),
        limits=read_limits(args.get("limits")),
        timeout=policy.claim_timeout if timeout is None else timeout,
        capacity_limits=policy.capacity_limits,
    )


def _update(args: Mapping[str, Any], _context: Context, _policy: Policy) -> Asked:
    changes = read_changes(args["instance"])
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


def resolve(request: Request, *, source: str, served: Sequence[str], policy: Policy) -> Call:
    """What ``request`` asks.

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
    return Call(hosts, method.build(args, request.context, policy))


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
    if method.any_host or (source == FANOUT and request.method == "update_available_resource"):
        return tuple(served)
    raise InvalidInput(field="host", reason="is missing: this topic is not of one host")
