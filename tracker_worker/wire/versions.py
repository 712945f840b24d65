# SPDX-License-Identifier: Apache-2.0
"""The versions of the RPC API: the minor version in which each method, and each later argument of a method, appeared.

An addition raises the minor version. A worker serves each minor version up to its own. A client sends each request with the
version of the newest thing in it, so that an older worker serves what it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAJOR = 1
MINOR = 1
"""The newest minor version."""
VERSION = f"{MAJOR}.{MINOR}"
"""The newest version of the RPC API."""

METHODS: Mapping[str, int] = {
    "begin_resource_claim": 0,
    "finish_resource_claim": 0,
    "abort_resource_claim": 0,
    "update_usage": 0,
    "update_available_resource": 0,
    "get_node": 0,
    "list_nodes": 0,
    "list_claims": 0,
    "get_usage": 0,
    "oslo_rpc_server_ping": 0,
    "renew_resource_claim": 1,
    "begin_resource_claims": 1,
    "would_fit": 1,
    "list_allocations": 1,
    "get_allocation": 1,
    "release_allocation": 1,
    "report_instances": 1,
    "begin_move_claim": 1,
    "finish_move": 1,
    "confirm_move": 1,
    "revert_move": 1,
    "abort_move": 1,
    "fail_move": 1,
    "adopt": 1,
    "get_instances": 1,
    "get_notifications": 1,
}
"""The minor version of each method."""

ARGUMENTS: Mapping[str, Mapping[str, int]] = {
    "begin_resource_claim": {"claim_id": 1, "on_expiry": 1},
    "list_claims": {"limit": 1, "after": 1},
}
"""The minor versions of the arguments that are newer than their method. They are optional."""


def needed(method: str, args: Mapping[str, Any]) -> str:
    """The version of a request of ``method`` with these arguments. A method that is not known needs the newest one."""
    newer = ARGUMENTS.get(method, {})
    return f"{MAJOR}.{max([METHODS.get(method, MINOR), *(newer[name] for name in args if name in newer)])}"
