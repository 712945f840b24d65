# SPDX-License-Identifier: Apache-2.0
"""Clients and workers of different versions, over a real broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from oslo_config import cfg

from tests.functional.conftest import HOST, MakeWorker
from tests.support.builders import instance_dict, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.stock import EXMODS, oslo_messaging
from tests.support.worker_process import NODE, WorkerProcess
from tests.wire.stock import configuration
from tracker_worker import errors
from tracker_worker.client.api import TrackerAPI
from tracker_worker.client.pipelined import TrackerClient
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion

CONTEXT = {"project_id": "astronomy", "user_id": "galileo"}
MakeClient = Callable[..., TrackerAPI]


@pytest.fixture(params=[TrackerAPI, TrackerClient])
def make_client(request: pytest.FixtureRequest, broker_vhost: str) -> Iterator[MakeClient]:
    """Makes clients of both kinds, perhaps pinned."""
    made: list[Any] = []

    def make(pin: str | None = None) -> TrackerAPI:
        conf = cfg.ConfigOpts()
        conf([], project="scheduler", default_config_files=[], default_config_dirs=[])
        register_client_opts(conf)
        conf.set_override("transport_url", broker_vhost)
        conf.set_override("rpc_response_timeout", SECONDS)
        if pin is not None:
            conf.set_override("tracker", pin, group="upgrade_levels")
        made.append(request.param(conf))
        return made[-1]

    yield make
    for client in made:
        if isinstance(client, TrackerClient):
            client.close()
        else:
            client._transport._client.transport.cleanup()


@pytest.fixture
def worker(make_worker: MakeWorker) -> WorkerProcess:
    started = make_worker(hosts={HOST: {"n1": NODE}})
    started.start()
    started.wait_ready()
    return started


class OldWorker:
    """A worker of version 1.0: what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def get_node(self, _context: Any, **args: Any) -> dict[str, Any]:
        self.asked.append(("get_node", args))
        return {"node": "n1"}

    def begin_resource_claim(
        self, _context: Any, instance: Any, limits: Any = None, timeout: Any = None
    ) -> dict[str, Any]:
        self.asked.append(("begin_resource_claim", {"instance": instance, "limits": limits, "timeout": timeout}))
        return {"claim_id": instance["uuid"]}

    def finish_resource_claim(self, _context: Any, claim_id: str) -> None:
        self.asked.append(("finish_resource_claim", {"claim_id": claim_id}))

    def abort_resource_claim(self, _context: Any, claim_id: str) -> None:
        self.asked.append(("abort_resource_claim", {"claim_id": claim_id}))


@contextmanager
def old_worker(url: str) -> Iterator[OldWorker]:
    """A stock server of version 1.0 in place of a worker."""
    endpoint = OldWorker()
    transport = oslo_messaging.get_rpc_transport(configuration(url), allowed_remote_exmods=EXMODS)
    target = oslo_messaging.Target(topic="tracker", server=HOST, version="1.0")
    server = oslo_messaging.get_rpc_server(transport, target, [endpoint])
    server.start()
    try:
        yield endpoint
    finally:
        server.stop()
        server.wait()
        transport.cleanup()


def test_a_new_client_has_the_methods_of_1_1(worker: WorkerProcess, make_client: MakeClient) -> None:
    api = make_client()
    chosen = uuid(900)
    begun = api.begin_resource_claim(CONTEXT, HOST, instance_dict(1), None, 30, claim_id=chosen, on_expiry="release")
    assert begun is not None
    assert (begun["claim_id"], begun["on_expiry"]) == (chosen, "release")
    renewed = api.renew_resource_claim(CONTEXT, HOST, chosen, 60)
    assert renewed is not None
    assert renewed["expires_at"] > begun["expires_at"]

    entries: list[Any] = [{"instance": instance_dict(number), "limits": {"vcpu": 8}} for number in (2, 3)]
    assert [claim and claim["instance_uuid"] for claim in api.begin_resource_claims(CONTEXT, HOST, entries)] == [
        uuid(2),
        uuid(3),
    ]
    entries = [{"instance": instance_dict(number), "limits": {"vcpu": 8}} for number in (4, 5)]
    with pytest.raises(errors.ComputeResourcesUnavailable) as refused:
        api.begin_resource_claims(CONTEXT, HOST, entries)
    [lack] = refused.value.kwargs["shortfalls"]
    assert (lack["instance_uuid"], lack["node"], lack["resource"]) == (uuid(5), "n1", "VCPU")
    assert api.would_fit(CONTEXT, HOST, instance_dict(4), {"vcpu": 7}) == {
        "fits": False,
        "shortfalls": [{"resource": "VCPU", "requested": 2, "used": 6, "limit": 7}],
        "limit_source": "caller",
    }

    first = api.list_allocations(CONTEXT, HOST, limit=2)
    second = api.list_allocations(CONTEXT, HOST, limit=2, after=first["next"])
    listed = [*first["allocations"], *second["allocations"]]
    assert ([entry["instance_uuid"] for entry in listed], second["next"]) == ([uuid(1), uuid(2), uuid(3)], None)
    assert api.get_allocation(CONTEXT, HOST, uuid(2)) == listed[1]
    assert [claim["claim_id"] for claim in api.list_claims(CONTEXT, HOST, limit=1, after=uuid(1))] == [chosen]
    assert api.report_instances(CONTEXT, HOST, "n1", [uuid(8)])["running_not_charged"] == [uuid(8)]
    answer = api.adopt(CONTEXT, HOST, [instance_dict(2), instance_dict(7)])
    assert answer == {"adopted": [uuid(7)], "already": [uuid(2)], "refused": []}
    assert api.release_allocation(CONTEXT, HOST, uuid(3), "lost with its disk") == listed[2]
    assert api.get_allocation(CONTEXT, HOST, uuid(3)) is None

    present = api.get_instances(CONTEXT, HOST, "n1", limit=2)
    assert [entry["instance_id"] for entry in present["instances"]] == [uuid(1), uuid(2)]
    assert (present["ledger_id"], present["next"]) == (first["ledger_id"], uuid(2))
    present = api.get_instances(CONTEXT, HOST, "n1", after=present["next"])
    assert [entry["instance_id"] for entry in present["instances"]] == [uuid(7)]
    assert (present["next"], present["sequence"]) == (None, api.get_notifications(CONTEXT, HOST, "n1")["last"])
    with pytest.raises(errors.InvalidInput, match="limit"):
        api.get_instances(CONTEXT, HOST, "n1", limit=501)

    told = api.get_notifications(CONTEXT, HOST, "n1", after_sequence=2, limit=2)
    assert told["ledger_id"] == first["ledger_id"]
    assert [one["payload"]["sequence"] for one in told["notifications"]] == [3, 4]
    assert [one["event_type"] for one in told["notifications"]] == ["tracker.claim.renewed", "tracker.claim.begun"]
    assert api.get_notifications(CONTEXT, HOST, "n1", told["last"])["notifications"] == []
    with pytest.raises(errors.InvalidInput, match="limit"):
        api.get_notifications(CONTEXT, HOST, "n1", limit=501)


def test_casts_of_1_1_are_done(worker: WorkerProcess, make_client: MakeClient) -> None:
    api = make_client()
    api.cast_begin_resource_claims(CONTEXT, HOST, [{"instance": instance_dict(1)}, {"instance": instance_dict(2)}])
    api.cast_begin_resource_claim(CONTEXT, HOST, instance_dict(3), claim_id=uuid(900))
    api.cast_renew_resource_claim(CONTEXT, HOST, uuid(900), 900)
    api.cast_report_instances(CONTEXT, HOST, "n1", [uuid(8)])
    api.cast_release_allocation(CONTEXT, HOST, uuid(1), "lost")
    assert [entry["instance_uuid"] for entry in api.list_allocations(CONTEXT, HOST)["allocations"]] == [
        uuid(2),
        uuid(3),
    ]


@pytest.mark.parametrize("pin", [None, "1.0"])
def test_a_claim_around_a_build_ends_its_own_claim(
    worker: WorkerProcess, make_client: MakeClient, pin: str | None
) -> None:
    api = make_client(pin)
    with api.resource_claim(CONTEXT, HOST, instance_dict(1)) as claim:
        assert claim is not None
    with pytest.raises(LookupError), api.resource_claim(CONTEXT, HOST, instance_dict(2)):
        raise LookupError
    view = api.get_node(CONTEXT, HOST)
    assert (view["running_vms"], api.list_claims(CONTEXT, HOST)) == (1, [])


# A stock server reads no msgpack, which TrackerClient sends: in place of an old worker it can only answer TrackerAPI.
@pytest.mark.parametrize("make_client", [TrackerAPI], indirect=True)
def test_a_new_client_works_with_an_old_worker_as_far_as_that_goes(broker_vhost: str, make_client: MakeClient) -> None:
    with old_worker(broker_vhost) as old:
        api = make_client()
        assert api.get_node(CONTEXT, HOST) == {"node": "n1"}
        assert api.begin_resource_claim(CONTEXT, HOST, instance_dict(1)) == {"claim_id": uuid(1)}
        with pytest.raises(UnsupportedVersion, match=r"version 1\.1\. Attempted method: get_allocation"):
            api.get_allocation(CONTEXT, HOST, uuid(1))
        with pytest.raises(UnsupportedVersion):
            api.begin_resource_claim(CONTEXT, HOST, instance_dict(1), on_expiry="keep")
        with pytest.raises(UnsupportedVersion), api.resource_claim(CONTEXT, HOST, instance_dict(1)):
            pass
        assert [method for method, _ in old.asked] == ["get_node", "begin_resource_claim"]


@pytest.mark.parametrize("make_client", [TrackerAPI], indirect=True)
def test_a_pinned_client_needs_nothing_that_an_old_worker_lacks(broker_vhost: str, make_client: MakeClient) -> None:
    with old_worker(broker_vhost) as old:
        api = make_client("1.0")
        with api.resource_claim(CONTEXT, HOST, instance_dict(1)):
            pass
        with pytest.raises(LookupError), api.resource_claim(CONTEXT, HOST, instance_dict(2)):
            raise LookupError
        with pytest.raises(oslo_messaging.RPCVersionCapError):
            api.get_allocation(CONTEXT, HOST, uuid(1))
        wait_until(lambda: len(old.asked) == 4, "both claims end")
    ends = [(method, args["claim_id"]) for method, args in old.asked if "claim_id" in args]
    assert ends == [("finish_resource_claim", uuid(1)), ("abort_resource_claim", uuid(2))]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_stock_client_gets_every_method_in_both_versions(
    worker: WorkerProcess, broker_vhost: str, version: str
) -> None:
    transport = oslo_messaging.get_rpc_transport(configuration(broker_vhost), allowed_remote_exmods=EXMODS)
    target = oslo_messaging.Target(topic="tracker", server=HOST, version=version)
    client = oslo_messaging.get_rpc_client(transport, target, timeout=SECONDS)
    try:
        assert client.call(CONTEXT, "get_allocation", instance_uuid=uuid(1)) is None
        assert client.call(CONTEXT, "list_claims", limit=1) == []
        with pytest.raises(NoSuchMethod):
            client.call(CONTEXT, "get_allocations", instance_uuid=uuid(1))
        with pytest.raises(UnsupportedVersion):
            client.prepare(version="1.2").call(CONTEXT, "get_allocation", instance_uuid=uuid(1))
    finally:
        transport.cleanup()
