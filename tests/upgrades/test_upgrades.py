# SPDX-License-Identifier: Apache-2.0
"""Clients, workers and databases of an earlier commit beside those of this one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.worker_process import WorkerProcess
from tests.upgrades.conftest import HOST, MakeWorker
from tracker_worker.wire.versions import METHODS

STORY = Path(__file__).with_name("story.py")
KINDS = ["TrackerAPI", "TrackerClient"]
# Values of these keys are made anew in each run.
_VARYING = {"claim_id", "created_at", "begun_at", "expires_at", "ended_at", "generation", "sequence", "reported_at"}
Answers = list[tuple[str, Any]]


def told(python: Path, kind: str, worker: WorkerProcess, url: str) -> Answers:
    """What a scheduler is answered with the client of ``python``'s environment."""
    configuration = worker.directory / "scheduler.conf"
    # The pin is for this commit's client with an earlier worker, as doc/admin/operate.md says.
    configuration.write_text(f"[DEFAULT]\ntransport_url = {url}\n[upgrade_levels]\ntracker = 1.0\n", encoding="utf-8")
    done = subprocess.run(
        [python, STORY, kind, configuration, HOST],
        cwd=worker.directory,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return [(method, answer) for method, answer in json.loads(done.stdout)]


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Where ``after`` lacks something of ``before``, or has another value. What is new in a mapping is no difference."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = [f"{path}.{key} is missing" for key in before if key not in after]
        for key, value in before.items():
            if key in after and key not in _VARYING:
                found += differences(value, after[key], f"{path}.{key}")
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [one for number, (old, new) in pairs for one in differences(old, new, f"{path}[{number}]")]
    return [] if before == after else [f"{path}: {before!r} became {after!r}"]


def run(worker: WorkerProcess) -> WorkerProcess:
    worker.start()
    worker.wait_for_log(" ready: ")
    return worker


@pytest.fixture
def standard(earlier: Path, make_worker: MakeWorker, broker_vhost: str, request: pytest.FixtureRequest) -> Answers:
    """What the earlier client is answered by the earlier worker, which has stopped since."""
    worker = run(make_worker(program=earlier / "tracker-worker"))
    answers = told(earlier / "python", request.getfixturevalue("kind"), worker, broker_vhost)
    assert worker.terminate() == 0
    return answers


def compared(before: Answers, after: Answers) -> list[str]:
    assert [method for method, _ in before] == [method for method, _ in after]
    return [
        f"{number}. {method}{line}"
        for number, ((method, old), (_, new)) in enumerate(zip(before, after, strict=True))
        for line in differences(old, new)
    ]


def forget_everything(worker: WorkerProcess) -> None:
    for path in worker.database.parent.glob("tracker.sqlite*"):
        path.unlink()


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_client_is_answered_as_before(
    earlier: Path, make_worker: MakeWorker, broker_vhost: str, standard: Answers, kind: str
) -> None:
    worker = make_worker()
    forget_everything(worker)
    worker.start()
    worker.wait_for_log(" ready: ")
    assert compared(standard, told(earlier / "python", kind, worker, broker_vhost)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_of_this_commit_is_answered_by_an_earlier_worker(
    earlier: Path, make_worker: MakeWorker, broker_vhost: str, standard: Answers, kind: str
) -> None:
    worker = make_worker(program=earlier / "tracker-worker")
    forget_everything(worker)
    run(worker)
    assert compared(standard, told(Path(sys.executable), kind, worker, broker_vhost)) == []


def test_what_has_changed_or_is_missing_is_a_difference() -> None:
    before = [("get_node", {"vcpus": 4, "stats": [{"a": 1}], "sequence": 1})]
    assert compared(before, [("get_node", {"vcpus": 4, "stats": [{"a": 1, "b": 2}], "sequence": 2})]) == []
    assert compared(before, [("get_node", {"vcpus": 5, "stats": [{}], "sequence": 1})]) == [
        "0. get_node.vcpus: 4 became 5",
        "0. get_node.stats[0].a is missing",
    ]
    assert compared(before, [("get_node", None)]) != []


def test_the_story_has_every_method_of_the_first_version() -> None:
    called = set(re.findall(r'call\("(\w+)"', STORY.read_text(encoding="utf-8")))
    assert called == {method for method, minor in METHODS.items() if minor == 0}
