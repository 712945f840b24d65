# SPDX-License-Identifier: Apache-2.0
"""Requests of the RPC table: one that is valid for each method, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.builders import instance_dict, uuid
from tests.support.engine import POLICY
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import InvalidInput
from tracker_worker.service.requests.methods import Operation, resolve
from tracker_worker.wire.request import Request

SERVED = ("host-1", "host-2")
OWN = "host-1"
ANY_HOST = {"list_nodes", "get_usage", "oslo_rpc_server_ping"}
VALID: dict[str, dict[str, Any]] = {
    "begin_resource_claim": {"instance": instance_dict(1)},
    "finish_resource_claim": {"claim_id": uuid(1)},
    "abort_resource_claim": {"claim_id": uuid(1)},
    "update_usage": {"instance": {"uuid": uuid(1)}},
    "update_available_resource": {},
    "get_node": {},
    "list_nodes": {},
    "list_claims": {},
    "get_usage": {},
    "begin_move_claim": {"instance": instance_dict(1), "move": {"id": "m1", "kind": "resize"}},
    "finish_move": {"move_id": "m1"},
    "confirm_move": {"move_id": "m1"},
    "revert_move": {"move_id": "m1"},
    "abort_move": {"move_id": "m1"},
    "fail_move": {"move_id": "m1"},
    "renew_resource_claim": {"claim_id": uuid(1)},
    "begin_resource_claims": {"claims": [{"instance": instance_dict(1)}, {"instance": instance_dict(2)}]},
    "would_fit": {"instance": instance_dict(1)},
    "list_allocations": {},
    "get_allocation": {"instance_uuid": uuid(1)},
    "release_allocation": {"instance_uuid": uuid(1), "reason": "a ghost"},
    "report_instances": {"uuids": [uuid(1)]},
    "adopt": {"instances": [instance_dict(1)]},
    "get_instances": {"node": "node-1"},
    "get_notifications": {"node": "node-1"},
    "oslo_rpc_server_ping": {},
}


def ask(
    method: str,
    args: Mapping[str, Any] | None = None,
    *,
    source: str = OWN,
    version: str = "1.0",
    namespace: str | None = None,
    context: Mapping[str, Any] | None = None,
    policy: Policy = POLICY,
) -> Operation:
    request = Request(
        method=method,
        args=VALID.get(method, {}) if args is None else args,
        version=version,
        namespace=namespace,
        context=context or {},
        unique_id="u-1",
        reply_to=None,
        monitor_seconds=None,
    )
    return resolve(request, source=source, served=SERVED, policy=policy)


def refused(*arguments: Any, **options: Any) -> str:
    """The field that InvalidInput names."""
    with pytest.raises(InvalidInput) as caught:
        ask(*arguments, **options)
    return str(caught.value.kwargs["field"])
