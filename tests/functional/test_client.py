# SPDX-License-Identifier: Apache-2.0
"""TrackerClient: the methods of TrackerAPI with many requests in flight."""

from __future__ import annotations

from collections.abc import Iterator

import oslo_messaging
import pytest
from oslo_config import cfg

from tests.functional.conftest import HOST, MakeWorker
from tests.servers import RabbitMQServer
from tests.support.builders import instance_dict, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker import errors
from tracker_worker.client.api import TrackerAPI
from tracker_worker.client.pipelined import TrackerClient
from tracker_worker.conf.opts import register_messaging_opts

CONTEXT = {"project_id": "astronomy", "user_id": "galileo"}
MANY = 200


@pytest.fixture
def worker(make_worker: MakeWorker) -> WorkerProcess:
    started = make_worker(hosts={HOST: {"n1": NODE}})
    started.start()
    started.wait_ready()
    return started


@pytest.fixture
def tracker(broker_vhost: str) -> Iterator[TrackerClient]:
    conf = cfg.ConfigOpts()
    conf([], project="scheduler", default_config_files=[], default_config_dirs=[])
    register_messaging_opts(conf)
    conf.set_override("transport_url", broker_vhost)
    conf.set_override("rpc_response_timeout", SECONDS)
    with TrackerClient(conf) as client:
        yield client


def test_many_pipelined_claims_are_decided_in_order(worker: WorkerProcess, tracker: TrackerClient) -> None:
    requests = [(instance_dict(number, vcpus=1), {"vcpu": MANY - 10}) for number in range(MANY)]
    begun = tracker.begin_many(CONTEXT, HOST, requests)
    granted = [future.result() for future in begun[:-10]]
    assert [claim and claim["instance_uuid"] for claim in granted] == [uuid(number) for number in range(MANY - 10)]
    generations = [claim["generation"] for claim in granted if claim is not None]
    assert generations == sorted(generations)
    for refused in begun[-10:]:
        (lack,) = _raised(refused.exception()).kwargs["shortfalls"]
        assert lack == {"resource": "VCPU", "requested": 1, "used": MANY - 10, "limit": MANY - 10}
    updated = tracker.update_many(CONTEXT, HOST, [{"uuid": uuid(1), "vm_state": "deleted"}, {"uuid": uuid(1)}])
    assert [future.result() for future in updated] == [
        {"tracked": True, "changed": True},
        {"tracked": False, "changed": False},
    ]


def _raised(error: BaseException | None) -> errors.ComputeResourcesUnavailable:
    assert isinstance(error, errors.ComputeResourcesUnavailable)
    return error


def test_the_pipelined_client_has_the_methods_of_tracker_api(worker: WorkerProcess, tracker: TrackerClient) -> None:
    with tracker.resource_claim(CONTEXT, HOST, instance_dict(1)) as claim:
        assert claim is not None
        assert tracker.list_claims(CONTEXT, HOST) == [claim]
    assert tracker.list_claims(CONTEXT, HOST) == []
    assert tracker.cast_update_usage(CONTEXT, HOST, {"uuid": uuid(1), "vm_state": "deleted"}) is None
    assert tracker.get_node(CONTEXT, HOST)["running_vms"] == 0
    with pytest.raises(errors.InvalidInput) as invalid:
        tracker.begin_resource_claim(CONTEXT, HOST, instance_dict(2, vcpus=-1))
    assert invalid.value.kwargs["field"] == "instance.vcpus"
    assert tracker.oslo_rpc_server_ping(CONTEXT, HOST) == "pong"


def test_a_request_for_a_host_without_a_worker_fails_immediately(worker: WorkerProcess, tracker: TrackerClient) -> None:
    for send in (tracker.finish_resource_claim, tracker.cast_finish_resource_claim):
        with pytest.raises(oslo_messaging.MessageDeliveryFailure):
            send(CONTEXT, "nowhere", uuid(1))


def test_a_request_in_flight_when_the_connection_is_lost_is_done_once(
    worker: WorkerProcess, tracker: TrackerClient, rabbitmq: RabbitMQServer
) -> None:
    tracker.get_node(CONTEXT, HOST)  # connects the client
    worker.kill()
    begun = tracker.begin_many(CONTEXT, HOST, [(instance_dict(number), None) for number in range(MANY)])
    rabbitmq.ctl("close_all_connections", "a test")
    worker.start()
    worker.wait_ready()
    claims = [future.result(SECONDS) for future in begun]
    assert [claim and claim["instance_uuid"] for claim in claims] == [uuid(number) for number in range(MANY)]
    assert tracker.get_node(CONTEXT, HOST)["running_vms"] == MANY


def test_a_request_without_an_answer_in_time_fails_with_messaging_timeout(
    worker: WorkerProcess, tracker: TrackerClient, broker_vhost: str
) -> None:
    worker.kill()
    conf = cfg.ConfigOpts()
    conf([], project="scheduler", default_config_files=[], default_config_dirs=[])
    register_messaging_opts(conf)
    conf.set_override("transport_url", broker_vhost)
    conf.set_override("rpc_response_timeout", 1)
    with TrackerClient(conf) as hasty, pytest.raises(oslo_messaging.MessagingTimeout):
        hasty.get_node(CONTEXT, HOST)
    late = tracker.begin_many(CONTEXT, HOST, [(instance_dict(1), None)])
    tracker.close()
    wait_until(lambda: all(future.done() for future in late), "the end of what was under way")
    assert isinstance(late[0].exception(), oslo_messaging.MessagingTimeout)


def test_an_answer_that_is_too_large_is_a_typed_error_for_both_clients(
    make_worker: MakeWorker, tracker: TrackerClient, broker_vhost: str
) -> None:
    worker = make_worker(hosts={HOST: {"n1": NODE}}, options={"bus": {"max_answer_bytes": 65536}})
    worker.start()
    worker.wait_ready()
    for future in tracker.begin_many(CONTEXT, HOST, [(instance_dict(number), None) for number in range(2 * MANY)]):
        future.result()
    conf = cfg.ConfigOpts()
    conf([], project="scheduler", default_config_files=[], default_config_dirs=[])
    register_messaging_opts(conf)
    conf.set_override("transport_url", broker_vhost)
    stock = TrackerAPI(conf)
    for client in (tracker, stock):
        with pytest.raises(errors.AnswerTooLarge) as refused:
            client.list_claims(CONTEXT, HOST)
        assert refused.value.kwargs["method"] == "list_claims"
        assert refused.value.kwargs["limit"] == 65536
        assert "limit" in refused.value.kwargs["how"]
        assert client.get_node(CONTEXT, HOST)["running_vms"] == 2 * MANY
