# SPDX-License-Identifier: Apache-2.0
"""A scheduler that uses every method of RPC API 1.0, through the client of the environment in which it runs:
``python story.py KIND CONFIGURATION HOST``. KIND is TrackerAPI or TrackerClient. What each call was answered goes to stdout, as
JSON.

It stands alone, and uses only what the clients of both commits have.
"""

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

warnings.filterwarnings("ignore")  # oslo.messaging imports eventlet, which warns

from oslo_config import cfg  # noqa: E402

from tracker_worker import errors  # noqa: E402
from tracker_worker.client import TrackerClient  # noqa: E402
from tracker_worker.rpcapi import TrackerAPI  # noqa: E402

CONTEXT = {"project_id": "physics", "user_id": "ada", "request_id": "req-1"}


def tell(kind: str, configuration: str, host: str) -> list[tuple[str, Any]]:
    conf = cfg.ConfigOpts()
    conf(["--config-file", configuration])
    client: Any = {"TrackerAPI": TrackerAPI, "TrackerClient": TrackerClient}[kind](conf)
    heard: list[tuple[str, Any]] = []

    def instance(letter: str, **more: Any) -> dict[str, Any]:
        sizes = {"vcpus": 2, "memory_mb": 4096, "root_gb": 10, "ephemeral_gb": 5}
        states = {"vm_state": "building", "task_state": "spawning"}
        return {"uuid": f"{letter * 8}-0000-4000-8000-000000000001", **states, **sizes, **more}

    def call(method: str, *arguments: Any) -> Any:
        function: Callable[..., Any] = getattr(client, method)
        try:
            answer = function(CONTEXT, host, *arguments)
        except errors.TrackerError as error:
            answer = {"error": type(error).__name__, "code": error.code, "kwargs": error.kwargs}
        heard.append((method, answer))
        return answer

    call("oslo_rpc_server_ping")
    call("get_node")
    built = call("begin_resource_claim", instance("a"), {"memory_mb": 65536, "vcpu": 32.0, "disk_gb": None})
    call("begin_resource_claim", instance("a"), None, 600)
    call("begin_resource_claim", instance("b", memory_mb=2**20), {"memory_mb": 65536})
    failed = call("begin_resource_claim", instance("c"))
    call("begin_resource_claim", instance("d", vcpus=-1))
    call("list_claims")
    call("finish_resource_claim", built["claim_id"])
    call("abort_resource_claim", failed["claim_id"])
    call("abort_resource_claim", failed["claim_id"])
    call("update_usage", {"uuid": instance("a")["uuid"], "vm_state": "active", "task_state": None, "memory_mb": 8192})
    call("update_usage", {"uuid": instance("e")["uuid"], "vm_state": "active"})
    call("get_usage")
    call("update_available_resource")
    call("list_nodes")
    call("update_usage", {"uuid": instance("a")["uuid"], "vm_state": "deleted"})
    call("get_usage", "physics")
    call("begin_resource_claim", instance("f"))  # stays
    with client.resource_claim(CONTEXT, host, instance("1")) as claim:
        heard.append(("resource_claim", claim))
    call("get_node", "no-such-node")
    if kind == "TrackerClient":
        client.close()
    return heard


if __name__ == "__main__":
    print(json.dumps(tell(*sys.argv[1:])))
