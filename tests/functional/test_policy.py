# SPDX-License-Identifier: Apache-2.0
"""A worker with a policy file, and stock clients that send roles."""

from __future__ import annotations

import getpass
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.functional.test_cli import Operator
from tests.support import stock
from tests.support.builders import instance_dict
from tests.support.deadline import wait_until
from tests.support.worker_process import NODE, WorkerProcess
from tests.wire.stock import configuration
from tracker_worker import errors

RULES = '"tracker:claim": "role:scheduler"\n"tracker:administer": "role:admin or user_name:nobody-at-all"\n'
SCHEDULER = {"user_id": "nova", "project_id": "physics", "roles": ["scheduler"], "request_id": "req-s"}
READER = {"user_id": "eve", "project_id": "spies", "roles": ["reader"], "request_id": "req-e"}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"  # beside the worker's configuration


@pytest.fixture
def worker(make_worker: MakeWorker, policy: Path) -> Iterator[WorkerProcess]:
    policy.write_text(RULES, encoding="utf-8")
    made = make_worker(hosts={HOST: {"n1": NODE}})
    made.start()
    made.wait_ready()
    yield made
    assert "Traceback" not in made.log()


def call(client: stock.Client, context: dict[str, Any], method: str, **arguments: Any) -> Any:
    return client.prepare(HOST).call(context, method, **arguments)


def test_who_does_not_pass_a_rule_is_told_so_and_its_casts_are_parked(
    worker: WorkerProcess, client: stock.Client
) -> None:
    claim = call(client, SCHEDULER, "begin_resource_claim", instance=instance_dict(1))
    with pytest.raises(errors.NotPermitted) as refused:
        call(client, READER, "abort_resource_claim", claim_id=claim["claim_id"])
    assert refused.value.kwargs == {"rule": "tracker:claim", "method": "abort_resource_claim"}
    client.prepare(HOST).cast(READER, "abort_resource_claim", claim_id=claim["claim_id"])
    assert call(client, READER, "list_claims") == [claim]
    assert call(client, READER, "oslo_rpc_server_ping") == "pong"

    operator = Operator(worker)
    (letter,) = wait_until(lambda: operator.json("dead-letter", "list"), "the dead letter")
    assert (letter["code"], letter["method"]) == ("not_permitted", "abort_resource_claim")
    (said,) = [line for line in worker.log().splitlines() if "1 request not permitted: code=not_permitted" in line]
    assert " WARNING " in said
    for word in ("abort_resource_claim", "project=spies", "user=eve", "tracker:claim", "req-e"):
        assert word in said


def test_a_client_without_this_package_gets_a_remote_error(worker: WorkerProcess, broker_vhost: str) -> None:
    transport = oslo_messaging.get_rpc_transport(configuration(broker_vhost))
    try:
        target = oslo_messaging.Target(topic="tracker", version="1.0", server=HOST)
        client = oslo_messaging.get_rpc_client(transport, target, timeout=30)
        with pytest.raises(oslo_messaging.RemoteError) as refused:
            client.call(READER, "abort_resource_claim", claim_id="c")
        assert refused.value.exc_type == "NotPermitted"
    finally:
        transport.cleanup()


def test_a_command_says_who_runs_it_and_is_refused_in_one_sentence(worker: WorkerProcess, policy: Path) -> None:
    operator = Operator(worker)
    assert "tracker:administer does not permit update_available_resource" in operator.refuse("audit", "--host", HOST)
    policy.write_text(RULES.replace("nobody-at-all", getpass.getuser()), encoding="utf-8")
    worker.reload()
    assert operator.run("audit", "--host", HOST).returncode == 0


def test_hup_takes_over_new_rules_and_a_wrong_file_keeps_the_old_ones(
    worker: WorkerProcess, policy: Path, client: stock.Client
) -> None:
    said = "the policy file is not reloaded: [oslo_policy] policy_file "
    for times, wrong in enumerate(('"tracker:clam": "@"\n', '"tracker:claim": "anybody"\n', "a: [\n", None), 1):
        if wrong is None:
            policy.unlink()
        else:
            policy.write_text(wrong, encoding="utf-8")
        worker.signal(signal.SIGHUP)
        worker.wait_for_log(said, times=times)
        worker.wait_for_log(" reloaded\n", times=times)
        with pytest.raises(errors.NotPermitted):
            call(client, READER, "begin_resource_claim", instance=instance_dict(1))
        assert call(client, SCHEDULER, "begin_resource_claim", instance=instance_dict(1))["state"] == "begun"
    assert {line.split()[3] for line in worker.log().splitlines() if said in line} == {"ERROR"}

    policy.write_text('"tracker:claim": "role:reader"\n', encoding="utf-8")
    worker.signal(signal.SIGHUP)
    worker.wait_for_log(" reloaded\n", times=5)
    assert call(client, READER, "begin_resource_claim", instance=instance_dict(2))["state"] == "begun"
    with pytest.raises(errors.NotPermitted):
        call(client, SCHEDULER, "begin_resource_claim", instance=instance_dict(3))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"tracker:claim": "role:a role:b"\n', "rule tracker:claim cannot be understood"),
        ('"tracker:clam": "role:a"\n', "there is no rule tracker:clam: did you mean tracker:claim?"),
        ("]", "is no YAML in line 1"),
        (None, "there is no such file"),
    ],
)
def test_a_wrong_file_ends_the_start_with_one_sentence(
    make_worker: MakeWorker, tmp_path: Path, text: str | None, said: str
) -> None:
    path = tmp_path / "rules.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    worker = make_worker(hosts={HOST: {"n1": NODE}}, options={"oslo_policy": {"policy_file": path}})
    assert worker.run() == 1
    (sentence,) = worker.plain_lines()
    assert sentence.startswith(f"tracker-worker: [oslo_policy] policy_file {path}")
    assert said in sentence
    assert "Traceback" not in worker.log()
