# SPDX-License-Identifier: Apache-2.0
"""The client API on a stock oslo.messaging client: the requests that it sends, and its handling of the answers."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from oslo_config import cfg

from tests.support.builders import HOST, instance_dict, uuid
from tests.support.deadline import SECONDS
from tests.support.stock import oslo_messaging
from tracker_worker import errors
from tracker_worker.client.api import ALLOWED_REMOTE_EXMODS, TrackerAPI
from tracker_worker.ids import canonical
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion
from tracker_worker.service.requests.methods import METHODS

CONTEXT = {"project_id": "p", "user_id": "u", "request_id": "req-1"}
LIMITS = {"memory_mb": 5000.5, "disk_gb": None, "vcpu": 4}
CLAIM: Any = {"claim_id": uuid(1), "state": "begun"}
NODES = [{"node": "node-1"}]


class BuildFailed(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as the driver of a transport receives it."""

    kind: str
    method: str
    args: Mapping[str, Any]
    server: str | None = HOST
    topic: str = "tracker"
    version: str | None = "1.0"
    namespace: str | None = None
    fanout: bool | None = None
    context: Mapping[str, Any] = field(default_factory=lambda: dict(CONTEXT))


class ScriptedTransport:
    """Takes the place of a transport's driver: records requests and answers from a script of replies and errors."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.script: dict[tuple[str, str], Any] = {}

    def send(self, target: Any, ctxt: Any, message: Any, wait_for_reply: bool | None = None, **_: Any) -> Any:
        kind = "call" if wait_for_reply else "cast"
        about = target.server, target.topic, message.get("version"), message.get("namespace"), target.fanout
        self.sent.append(Sent(kind, message["method"], message["args"], *about, context=ctxt))
        answer = self.script.get((kind, message["method"]))
        if isinstance(answer, BaseException):
            raise answer
        return answer if kind == "call" else None

    @property
    def steps(self) -> list[str]:
        return [f"{sent.kind} {sent.method}" for sent in self.sent]


def scheduler_conf(path: Path, pin: str | None = None, **tracker: str) -> cfg.ConfigOpts:
    """The ConfigOpts of a scheduler, read from a file, without registered options; it is not cfg.CONF. ``pin`` is the newest
    version that its client may send."""
    lines = [] if pin is None else ["[upgrade_levels]", f"tracker = {pin}"]
    lines += ["[DEFAULT]", "transport_url = fake://", "rpc_response_timeout = 30", "[tracker]"]
    lines += [f"{name} = {value}" for name, value in tracker.items()]
    (path / "scheduler.conf").write_text("\n".join(lines), encoding="utf-8")
    conf = cfg.ConfigOpts()
    conf(["--config-file", str(path / "scheduler.conf")], project="scheduler", default_config_dirs=[])
    return conf


@pytest.fixture
def scripted_transport(monkeypatch: pytest.MonkeyPatch) -> ScriptedTransport:
    """Replace the driver of every fake:// transport of this test."""
    recorder = ScriptedTransport()
    send = "oslo_messaging._drivers.impl_fake.FakeDriver.send"
    monkeypatch.setattr(send, lambda _, *args, **options: recorder.send(*args, **options))
    return recorder


@pytest.fixture
def api(scripted_transport: ScriptedTransport, tmp_path: Path) -> TrackerAPI:
    return TrackerAPI(scheduler_conf(tmp_path))


INSTANCE = instance_dict(1)
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
    "oslo_rpc_server_ping": ((), {}),
}
CASTS = ["begin_resource_claim", "finish_resource_claim", "abort_resource_claim", "update_usage"]
CASTS += ["update_available_resource", "renew_resource_claim", "begin_resource_claims", "release_allocation"]
CASTS += ["report_instances"]
# The methods that version 1.0 did not have.
NEW = {
    "renew_resource_claim",
    "begin_resource_claims",
    "would_fit",
    "list_allocations",
    "get_allocation",
    "release_allocation",
    "report_instances",
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


def test_a_claim_around_a_build_is_begun_and_finished(api: TrackerAPI, scripted_transport: ScriptedTransport) -> None:
    scripted_transport.script["call", "begin_resource_claim"] = CLAIM
    with api.resource_claim(CONTEXT, HOST, INSTANCE, LIMITS) as claim:
        assert claim == CLAIM
        assert scripted_transport.steps == ["call begin_resource_claim"]
    begin, finish = scripted_transport.sent
    assert begin.args == {"instance": INSTANCE, "limits": LIMITS, "timeout": None, "claim_id": begin.args["claim_id"]}
    assert begin.version == "1.1"
    assert finish == Sent("call", "finish_resource_claim", {"claim_id": CLAIM["claim_id"]})


def test_each_claim_around_a_build_has_an_id_of_its_own(api: TrackerAPI, scripted_transport: ScriptedTransport) -> None:
    for _ in range(3):
        with api.resource_claim(CONTEXT, HOST, INSTANCE):
            pass
    ids = [sent.args["claim_id"] for sent in scripted_transport.sent if sent.method == "begin_resource_claim"]
    assert len({*ids, uuid(1)}) == 4
    assert ids == [canonical(claim_id) for claim_id in ids]


def test_a_claim_that_the_instance_had_before_is_the_one_that_ends(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    scripted_transport.script["call", "begin_resource_claim"] = {**CLAIM, "claim_id": "the first one"}
    with pytest.raises(BuildFailed), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise BuildFailed
    assert scripted_transport.sent[1:] == [Sent("call", "abort_resource_claim", {"claim_id": "the first one"})]


@pytest.mark.parametrize(
    "refusal",
    [
        errors.ClaimConflict(instance_uuid=uuid(1), node="node-1", reason="it was reported deleted"),
        UnsupportedVersion("1.1", "begin_resource_claim"),
        NoSuchMethod("begin_resource_claim"),
        oslo_messaging.RemoteError("RuntimeError", "failed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_begin_that_was_answered_with_an_error_is_not_aborted(
    api: TrackerAPI, scripted_transport: ScriptedTransport, refusal: Exception
) -> None:
    scripted_transport.script["call", "begin_resource_claim"] = refusal
    with pytest.raises(type(refusal)), api.resource_claim(CONTEXT, HOST, INSTANCE):
        pass
    assert scripted_transport.steps == ["call begin_resource_claim"]


@pytest.mark.behaviour("disabled-does-not-block")
def test_a_build_on_a_disabled_node_gets_none_as_its_claim_and_runs(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    with api.resource_claim(CONTEXT, HOST, INSTANCE) as claim:
        assert claim is None
    assert scripted_transport.steps[0] == "call begin_resource_claim"


@pytest.mark.parametrize("error", [BuildFailed, KeyboardInterrupt, GeneratorExit])
def test_a_build_that_fails_aborts_and_its_exception_propagates(
    api: TrackerAPI, scripted_transport: ScriptedTransport, error: type[BaseException]
) -> None:
    with pytest.raises(error), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise error
    chosen = scripted_transport.sent[0].args["claim_id"]
    assert scripted_transport.sent[1:] == [Sent("call", "abort_resource_claim", {"claim_id": chosen})]


def test_a_refused_claim_runs_no_build_and_sends_no_abort(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    refusal = errors.ComputeResourcesUnavailable(shortfalls=[])
    scripted_transport.script["call", "begin_resource_claim"] = refusal
    ran = []
    with (
        pytest.raises(errors.ComputeResourcesUnavailable) as raised,
        api.resource_claim(CONTEXT, HOST, INSTANCE),
    ):
        ran.append(1)
    assert raised.value is refusal
    assert ran == []
    assert scripted_transport.steps == ["call begin_resource_claim"]


@pytest.mark.parametrize("doubt", [oslo_messaging.MessagingTimeout(), errors.StoreUnavailable(reason="away")])
def test_a_begin_of_which_nothing_is_known_is_aborted_by_a_cast_and_the_error_propagates(
    api: TrackerAPI, scripted_transport: ScriptedTransport, doubt: Exception
) -> None:
    scripted_transport.script["call", "begin_resource_claim"] = doubt
    ran = []
    with pytest.raises(type(doubt)), api.resource_claim(CONTEXT, HOST, INSTANCE):
        ran.append(1)
    assert ran == []
    chosen = scripted_transport.sent[0].args["claim_id"]
    assert chosen != uuid(1)
    assert scripted_transport.sent[1:] == [Sent("cast", "abort_resource_claim", {"claim_id": chosen})]


def test_a_finish_without_an_answer_is_sent_again_as_a_cast(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    scripted_transport.script["call", "finish_resource_claim"] = oslo_messaging.MessagingTimeout()
    scripted_transport.script["call", "begin_resource_claim"] = CLAIM
    with api.resource_claim(CONTEXT, HOST, INSTANCE):
        pass
    assert scripted_transport.sent[1:] == [
        Sent("call", "finish_resource_claim", {"claim_id": uuid(1)}),
        Sent("cast", "finish_resource_claim", {"claim_id": uuid(1)}),
    ]


def test_an_abort_without_an_answer_is_sent_again_as_a_cast(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    scripted_transport.script["call", "abort_resource_claim"] = oslo_messaging.MessagingTimeout()
    with pytest.raises(BuildFailed), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise BuildFailed
    assert scripted_transport.steps == [
        "call begin_resource_claim",
        "call abort_resource_claim",
        "cast abort_resource_claim",
    ]


def test_a_timeout_of_the_build_itself_is_an_exception_like_any_other(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    with pytest.raises(oslo_messaging.MessagingTimeout), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise oslo_messaging.MessagingTimeout
    assert scripted_transport.steps == ["call begin_resource_claim", "call abort_resource_claim"]


@pytest.mark.parametrize(
    "failure", [errors.StoreUnavailable(reason="away"), oslo_messaging.MessageDeliveryFailure("no broker")]
)
def test_a_failed_abort_does_not_replace_the_exception_of_the_build(
    api: TrackerAPI, scripted_transport: ScriptedTransport, failure: Exception
) -> None:
    scripted_transport.script["call", "abort_resource_claim"] = failure
    with pytest.raises(BuildFailed), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise BuildFailed


def test_an_abort_that_cannot_be_cast_does_not_replace_the_exception(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    scripted_transport.script["cast", "abort_resource_claim"] = oslo_messaging.MessageDeliveryFailure("no broker")
    scripted_transport.script["call", "abort_resource_claim"] = oslo_messaging.MessagingTimeout()
    with pytest.raises(BuildFailed), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise BuildFailed
    scripted_transport.script["call", "begin_resource_claim"] = oslo_messaging.MessagingTimeout()
    with pytest.raises(oslo_messaging.MessagingTimeout), api.resource_claim(CONTEXT, HOST, INSTANCE):
        pass


def test_a_finish_that_fails_is_raised(api: TrackerAPI, scripted_transport: ScriptedTransport) -> None:
    scripted_transport.script["call", "finish_resource_claim"] = errors.StoreUnavailable(reason="away")
    with pytest.raises(errors.StoreUnavailable), api.resource_claim(CONTEXT, HOST, INSTANCE):
        pass


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
