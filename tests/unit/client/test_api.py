# SPDX-License-Identifier: Apache-2.0
"""The client API on a stock oslo.messaging client: the requests that it sends, and its handling of the answers."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from oslo_config import cfg

from tests.support.builders import HOST, uuid
from tests.support.deadline import SECONDS
from tests.support.scheduler import (
    CLAIM,
    CONTEXT,
    INSTANCE,
    LIMITS,
    BuildFailed,
    ScriptedTransport,
    Sent,
    scheduler_conf,
)
from tests.support.stock import oslo_messaging
from tracker_worker import errors
from tracker_worker.client.api import ALLOWED_REMOTE_EXMODS, TrackerAPI
from tracker_worker.service.requests.methods import METHODS

NODES = [{"node": "node-1"}]
MOVE = {"id": "m1", "kind": "resize", "from_host": None, "from_node": None}
AT = "2026-01-15T12:00:00.000000Z"
# Method -> its arguments in the API and on the wire.
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "begin_resource_claim": ((INSTANCE, LIMITS, 2.5), {"instance": INSTANCE, "limits": LIMITS, "timeout": 2.5}),
    "finish_resource_claim": ((uuid(1),), {"claim_id": uuid(1)}),
    "abort_resource_claim": ((uuid(1),), {"claim_id": uuid(1)}),
    "update_usage": ((INSTANCE,), {"instance": INSTANCE}),
    "update_available_resource": (("node-1",), {"node": "node-1"}),
    "get_node": (("node-1",), {"node": "node-1"}),
    "list_nodes": ((), {}),
    "list_claims": (("node-1",), {"node": "node-1"}),
    "get_usage": (("project",), {"project_id": "project"}),
    "begin_move_claim": (
        (INSTANCE, MOVE, LIMITS, 2.5),
        {"instance": INSTANCE, "move": MOVE, "limits": LIMITS, "timeout": 2.5},
    ),
    "finish_move": (("m1", AT, MOVE), {"move_id": "m1", "effective_at": AT, "move": MOVE}),
    "confirm_move": (("m1", MOVE), {"move_id": "m1", "move": MOVE}),
    "revert_move": (("m1", AT, MOVE), {"move_id": "m1", "effective_at": AT, "move": MOVE}),
    "abort_move": (("m1", MOVE), {"move_id": "m1", "move": MOVE}),
    "fail_move": (("m1",), {"move_id": "m1"}),
    "renew_resource_claim": ((uuid(1), 2.5), {"claim_id": uuid(1), "timeout": 2.5}),
    "begin_resource_claims": (
        ([{"instance": INSTANCE, "limits": LIMITS}, {"instance": INSTANCE, "claim_id": uuid(9)}], 2.5, "keep"),
        {
            "claims": [{"instance": INSTANCE, "limits": LIMITS}, {"instance": INSTANCE, "claim_id": uuid(9)}],
            "timeout": 2.5,
            "on_expiry": "keep",
        },
    ),
    "would_fit": ((INSTANCE, LIMITS), {"instance": INSTANCE, "limits": LIMITS}),
    "list_allocations": (
        ("node-1", "project", "instance", "active", 1.5, 7, "a/b"),
        {
            "node": "node-1",
            "project_id": "project",
            "role": "instance",
            "state": "active",
            "older_than": 1.5,
            "limit": 7,
            "after": "a/b",
        },
    ),
    "get_allocation": ((uuid(1),), {"instance_uuid": uuid(1)}),
    "release_allocation": ((uuid(1), "a ghost"), {"instance_uuid": uuid(1), "reason": "a ghost"}),
    "report_instances": (("node-1", [uuid(1)]), {"node": "node-1", "uuids": [uuid(1)]}),
    "adopt": (([INSTANCE],), {"instances": [INSTANCE]}),
    "get_instances": (("node-1", uuid(1), 3), {"node": "node-1", "after": uuid(1), "limit": 3}),
    "get_notifications": (("node-1", 7, 3), {"node": "node-1", "after_sequence": 7, "limit": 3}),
    "oslo_rpc_server_ping": ((), {}),
}
CASTS = ["begin_resource_claim", "finish_resource_claim", "abort_resource_claim", "update_usage"]
CASTS += ["update_available_resource", "renew_resource_claim", "begin_resource_claims", "release_allocation"]
CASTS += [
    "report_instances",
    "adopt",
    "begin_move_claim",
    "finish_move",
    "confirm_move",
    "revert_move",
    "abort_move",
    "fail_move",
]
# The methods that version 1.0 did not have.
NEW = {
    "renew_resource_claim",
    "begin_resource_claims",
    "would_fit",
    "list_allocations",
    "get_allocation",
    "release_allocation",
    "report_instances",
    "begin_move_claim",
    "finish_move",
    "confirm_move",
    "revert_move",
    "abort_move",
    "fail_move",
    "adopt",
    "get_instances",
    "get_notifications",
}


def version_of(method: str) -> str:
    return "1.1" if method in NEW else "1.0"


def test_there_is_one_method_per_rpc_method() -> None:
    assert set(CALLS) == set(METHODS)


@pytest.mark.parametrize("method", CALLS)
def test_a_call_sends_the_method_and_its_arguments_to_the_host_and_returns_the_answer(
    api: TrackerAPI, scripted_transport: ScriptedTransport, method: str
) -> None:
    given, sent = CALLS[method]
    answer = scripted_transport.script["call", method] = {"answer": method}
    assert getattr(api, method)(CONTEXT, HOST, *given) == answer
    assert scripted_transport.sent == [Sent("call", method, sent, version=version_of(method))]


@pytest.mark.parametrize("method", CASTS)
def test_a_cast_sends_the_same_and_returns_none(
    api: TrackerAPI, scripted_transport: ScriptedTransport, method: str
) -> None:
    given, sent = CALLS[method]
    assert getattr(api, f"cast_{method}")(CONTEXT, HOST, *given) is None
    assert scripted_transport.sent == [Sent("cast", method, sent, version=version_of(method))]


@pytest.mark.parametrize(
    ("method", "defaults"),
    [
        ("begin_resource_claim", {"instance": INSTANCE, "limits": None, "timeout": None}),
        ("update_available_resource", {"node": None}),
        ("get_node", {"node": None}),
        ("list_claims", {"node": None}),
        ("get_usage", {"project_id": None}),
    ],
)
def test_an_omitted_argument_is_sent_as_null(
    api: TrackerAPI, scripted_transport: ScriptedTransport, method: str, defaults: Any
) -> None:
    required = [INSTANCE] if "instance" in defaults else []
    getattr(api, method)(CONTEXT, HOST, *required)
    assert scripted_transport.sent == [Sent("call", method, defaults)]


@pytest.mark.parametrize(
    ("method", "given", "sent"),
    [
        ("would_fit", (INSTANCE,), {"instance": INSTANCE}),
        ("list_allocations", (), {}),
        ("renew_resource_claim", (uuid(1),), {"claim_id": uuid(1)}),
        ("begin_resource_claims", ([{"instance": INSTANCE, "limits": None}],), {"claims": [{"instance": INSTANCE}]}),
        ("report_instances", (None, iter([uuid(1)])), {"uuids": [uuid(1)]}),
    ],
)
def test_an_omitted_argument_of_a_newer_method_is_not_sent(
    api: TrackerAPI, scripted_transport: ScriptedTransport, method: str, given: Any, sent: Any
) -> None:
    getattr(api, method)(CONTEXT, HOST, *given)
    assert scripted_transport.sent == [Sent("call", method, sent, version="1.1")]


# Method, keyword arguments of the API, and the version that they need.
NEWER_ARGUMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("begin_resource_claim", {"instance": INSTANCE, "timeout": 1}, "1.0"),
    ("begin_resource_claim", {"instance": INSTANCE, "claim_id": None, "on_expiry": None}, "1.0"),
    ("begin_resource_claim", {"instance": INSTANCE, "claim_id": "c"}, "1.1"),
    ("begin_resource_claim", {"instance": INSTANCE, "on_expiry": "keep"}, "1.1"),
    ("list_claims", {"node": "node-1"}, "1.0"),
    ("list_claims", {"limit": 7}, "1.1"),
    ("list_claims", {"after": "c"}, "1.1"),
]


@pytest.mark.parametrize(("method", "args", "version"), NEWER_ARGUMENTS)
def test_a_request_has_the_version_of_its_newest_argument(
    api: TrackerAPI, scripted_transport: ScriptedTransport, method: str, args: dict[str, Any], version: str
) -> None:
    getattr(api, method)(CONTEXT, HOST, **args)
    [sent] = scripted_transport.sent
    assert sent.version == version
    given = {name: value for name, value in args.items() if value is not None}
    assert {name: value for name, value in sent.args.items() if value is not None} == given


class TestPinned:
    @pytest.fixture
    def pinned(self, scripted_transport: ScriptedTransport, tmp_path: Path) -> TrackerAPI:
        return TrackerAPI(scheduler_conf(tmp_path, pin="1.0"))

    @pytest.mark.parametrize("method", CALLS)
    def test_a_pinned_client_sends_what_its_version_has_and_refuses_the_rest(
        self, pinned: TrackerAPI, scripted_transport: ScriptedTransport, method: str
    ) -> None:
        given, sent = CALLS[method]
        if method not in NEW:
            getattr(pinned, method)(CONTEXT, HOST, *given)
            assert scripted_transport.sent == [Sent("call", method, sent)]
            return
        with pytest.raises(oslo_messaging.RPCVersionCapError) as raised:
            getattr(pinned, method)(CONTEXT, HOST, *given)
        assert (raised.value.version, raised.value.version_cap) == ("1.1", "1.0")
        if method in CASTS:
            with pytest.raises(oslo_messaging.RPCVersionCapError):
                getattr(pinned, f"cast_{method}")(CONTEXT, HOST, *given)
        assert scripted_transport.sent == []

    @pytest.mark.parametrize(("method", "args", "version"), NEWER_ARGUMENTS)
    def test_a_newer_argument_counts_as_a_newer_method(
        self,
        pinned: TrackerAPI,
        scripted_transport: ScriptedTransport,
        method: str,
        args: dict[str, Any],
        version: str,
    ) -> None:
        if version == "1.0":
            getattr(pinned, method)(CONTEXT, HOST, **args)
            assert [sent.version for sent in scripted_transport.sent] == ["1.0"]
        else:
            with pytest.raises(oslo_messaging.RPCVersionCapError):
                getattr(pinned, method)(CONTEXT, HOST, **args)

    def test_a_claim_around_a_build_is_named_by_the_uuid_of_the_instance(
        self, pinned: TrackerAPI, scripted_transport: ScriptedTransport
    ) -> None:
        scripted_transport.script["call", "begin_resource_claim"] = {**CLAIM, "claim_id": "another"}
        with pinned.resource_claim(CONTEXT, HOST, INSTANCE):
            pass
        with pytest.raises(BuildFailed), pinned.resource_claim(CONTEXT, HOST, INSTANCE):
            raise BuildFailed
        scripted_transport.script["call", "begin_resource_claim"] = oslo_messaging.MessagingTimeout()
        with pytest.raises(oslo_messaging.MessagingTimeout), pinned.resource_claim(CONTEXT, HOST, INSTANCE):
            pass
        begin = Sent("call", "begin_resource_claim", {"instance": INSTANCE, "limits": None, "timeout": None})
        assert scripted_transport.sent == [
            begin,
            Sent("call", "finish_resource_claim", {"claim_id": uuid(1)}),
            begin,
            Sent("call", "abort_resource_claim", {"claim_id": uuid(1)}),
            begin,
            Sent("cast", "abort_resource_claim", {"claim_id": uuid(1)}),
        ]

    @pytest.mark.parametrize("pin", ["1.1", "1.7", "1.10"])
    def test_a_pin_at_the_newest_version_or_above_pins_nothing(
        self, scripted_transport: ScriptedTransport, tmp_path: Path, pin: str
    ) -> None:
        api = TrackerAPI(scheduler_conf(tmp_path, pin=pin))
        with api.resource_claim(CONTEXT, HOST, INSTANCE):
            api.get_allocation(CONTEXT, HOST, uuid(1))
        assert [sent.version for sent in scripted_transport.sent] == ["1.1", "1.1", "1.0"]

    def test_a_pin_that_is_no_version_is_a_mistake(self, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigurationError, match=r"\[upgrade_levels\] tracker"):
            TrackerAPI(scheduler_conf(tmp_path, pin="newest"))


def test_mappings_of_any_kind_are_sent_as_objects(api: TrackerAPI, scripted_transport: ScriptedTransport) -> None:
    frozen: Any = MappingProxyType
    api.begin_resource_claim(frozen(CONTEXT), HOST, frozen(INSTANCE), frozen(LIMITS))
    [sent] = scripted_transport.sent
    assert [type(value) for value in (sent.context, sent.args["instance"], sent.args["limits"])] == [dict] * 3


def test_the_topic_is_an_option_of_the_scheduler(scripted_transport: ScriptedTransport, tmp_path: Path) -> None:
    TrackerAPI(scheduler_conf(tmp_path, topic="ledger")).list_nodes(CONTEXT, HOST)
    assert [sent.topic for sent in scripted_transport.sent] == ["ledger"]


def test_the_api_works_with_a_transport_of_another_conf(scripted_transport: ScriptedTransport, tmp_path: Path) -> None:
    for name in ("scheduler", "transport"):
        (tmp_path / name).mkdir()
    transport = oslo_messaging.get_rpc_transport(scheduler_conf(tmp_path / "transport"))
    TrackerAPI(scheduler_conf(tmp_path / "scheduler"), transport).list_nodes(CONTEXT, HOST)
    assert scripted_transport.steps == ["call list_nodes"]


class Endpoint:
    """A server in place of the worker: answers, and records the requests."""

    def __init__(self) -> None:
        self.asked: queue.Queue[tuple[str, Any, dict[str, Any]]] = queue.Queue()

    def list_nodes(self, context: Any, **args: Any) -> Any:
        self.asked.put(("list_nodes", context, args))
        return NODES

    def update_usage(self, context: Any, **args: Any) -> None:
        self.asked.put(("update_usage", context, args))

    def begin_resource_claim(self, context: Any, **args: Any) -> Any:
        raise errors.ComputeResourcesUnavailable(
            shortfalls=[{"resource": "VCPU", "requested": 2, "used": 3, "limit": 4}]
        )


@contextmanager
def stock_server(conf: cfg.ConfigOpts, endpoint: Endpoint) -> Iterator[None]:
    """Run a stock server of the host in this process."""
    transport = oslo_messaging.get_rpc_transport(conf)
    target = oslo_messaging.Target(topic="tracker", server=HOST, version="1.0")
    server = oslo_messaging.get_rpc_server(transport, target, [endpoint])
    server.start()
    try:
        yield
    finally:
        server.stop()
        server.wait()
        transport.cleanup()


def test_a_stock_server_gets_the_requests_and_its_answers_and_errors_are_returned(tmp_path: Path) -> None:
    conf = scheduler_conf(tmp_path)
    endpoint = Endpoint()
    client = TrackerAPI(conf)
    with stock_server(conf, endpoint):
        assert client.list_nodes(CONTEXT, HOST) == NODES
        client.cast_update_usage(CONTEXT, HOST, INSTANCE)
        with pytest.raises(errors.ComputeResourcesUnavailable) as raised:
            client.begin_resource_claim(CONTEXT, HOST, INSTANCE)
        asked = [endpoint.asked.get(timeout=SECONDS) for _ in range(2)]
    assert raised.value.kwargs["shortfalls"][0]["used"] == 3
    assert asked == [("list_nodes", CONTEXT, {}), ("update_usage", CONTEXT, {"instance": INSTANCE})]


@pytest.mark.parametrize(
    "error",
    [
        errors.ComputeResourcesUnavailable(shortfalls=[{"resource": "VCPU", "requested": 1, "used": 2, "limit": 2}]),
        errors.ClaimConflict(instance_uuid=uuid(1), node="node-1", reason="not on node-2"),
        errors.InvalidInput(field="instance.vcpus", reason="must be an integer"),
        errors.NodeNotFound(host=HOST, node="node-9"),
        errors.HostNotServed(host="host-9"),
        errors.StoreUnavailable(reason="away"),
        errors.InstanceElsewhere(instance_uuid=uuid(1), host=HOST, node="node-2"),
        errors.NodeUnavailable(host=HOST, node="node-1", state="missing", reason="the driver does not list the node"),
        errors.NodeDraining(host=HOST, node="node-1", reason="new disks"),
        errors.NotPermitted(rule="tracker:claim", method="begin_resource_claim"),
    ],
    ids=lambda error: error.code,
)
def test_the_client_rebuilds_errors_with_code_and_kwargs(error: errors.TrackerError) -> None:
    common = oslo_messaging._drivers.common
    sent = common.serialize_remote_exception((type(error), error, None))
    rebuilt = common.deserialize_remote_exception(sent, ALLOWED_REMOTE_EXMODS)
    assert isinstance(rebuilt, type(error))
    assert (rebuilt.code, rebuilt.kwargs) == (error.code, error.kwargs)
    assert str(rebuilt).startswith(str(error))
