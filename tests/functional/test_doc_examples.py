# SPDX-License-Identifier: Apache-2.0
"""The commands and examples in the README and the user pages work and give the output that the pages show."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from tests.functional.conftest import MakeWorker
from tests.support.builders import instance_dict, sized, uuid
from tests.support.doc_pages import DOC, ROOT, Block, blocks
from tests.support.worker_process import WorkerProcess
from tracker_worker.billing import Books, SqliteState
from tracker_worker.client import TrackerClient

README = ROOT / "README.md"
LIBRARY = DOC / "user" / "library.md"
NOTIFICATIONS = DOC / "user" / "notifications.md"
BILLING = DOC / "user" / "billing.md"
HOST = "compute-1"
_URL = "rabbit://guest:guest@127.0.0.1:5672/"


@pytest.fixture
def worker(make_worker: MakeWorker, broker_vhost: str) -> Iterator[WorkerProcess]:
    """A worker with the README's configuration on another broker, and the configurations of clients in the same directory. No
    period ends meanwhile."""
    process = make_worker(hosts={HOST: {}})
    configuration = blocks(README, "ini")[0].text
    assert _URL in configuration
    assert "[notifications]" not in configuration
    here = configuration.replace(_URL, broker_vhost) + "[notifications]\nusage_audit_period = year\n"
    process.configuration.write_text(here, encoding="utf-8")
    for name in ("scheduler.conf", "billing.conf"):
        (process.directory / name).write_text(f"[DEFAULT]\ntransport_url = {broker_vhost}\n", encoding="utf-8")
    process.start()
    process.wait_ready()
    yield process
    assert process.terminate() == 0


def scripts(page: Path) -> list[tuple[str, str]]:
    """Each Python block that is followed by its output, with the output."""
    found: list[Block] = blocks(page, "python", "text")
    return [(code.text, out.text) for code, out in itertools.pairwise(found) if out.language == "text"]


def run(code: str, directory: Path) -> str:
    """Run ``code`` in a separate process and return its stdout. Its stderr must be empty, so that no library warns."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def defined(*what: str) -> dict[str, Any]:
    """What the Python blocks of the page define in which one of these texts is."""
    names: dict[str, Any] = {}
    for block in blocks(NOTIFICATIONS, "python"):
        if any(text in block.text for text in what):
            exec(compile(block.text, str(NOTIFICATIONS), "exec"), names)
    return names


def client(worker: WorkerProcess) -> TrackerClient:
    conf = cfg.ConfigOpts()
    conf(["--config-file", str(worker.directory / "billing.conf")], default_config_dirs=[])
    return TrackerClient(conf)


def test_the_examples_of_a_scheduler_give_the_output_that_the_pages_show(worker: WorkerProcess) -> None:
    examples = scripts(README) + scripts(LIBRARY)
    assert len(examples) == 3

    for code, shown in examples:
        assert run(code, worker.directory) == shown

    assert worker.database.is_file()


def heard_by(page: Path, worker: WorkerProcess) -> list[list[str]]:
    """The words that the page's consumer prints of each of the six notifications of the library page's example."""
    [code] = [block.text for block in blocks(page, "python") if "get_notification_listener" in block.text]
    until_told = "\ninput()\nlistener.stop()\nlistener.wait()\n"
    billing = subprocess.Popen(
        [sys.executable, "-u", "-c", code + until_told],
        cwd=worker.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run(scripts(LIBRARY)[0][0], worker.directory)
        assert billing.stdout is not None
        heard = [billing.stdout.readline().split() for _ in range(6)]
        _, complaints = billing.communicate("\n", timeout=30)
    finally:
        billing.kill()
        billing.wait()
    assert (billing.returncode, complaints) == (0, "")
    return heard


def test_the_example_of_a_consumer_receives_every_notification(worker: WorkerProcess) -> None:
    heard = heard_by(NOTIFICATIONS, worker)

    assert [line[0].removeprefix("tracker.") for line in heard] == [
        "node.updated",
        "claim.begun",
        "claim.aborted",
        "claim.begun",
        "claim.finished",
        "usage.released",
    ]
    assert [line[1:] for line in heard] == [[HOST, HOST, str(sequence)] for sequence in range(1, 7)]


def test_the_example_that_asks_for_notifications_gets_every_one(worker: WorkerProcess) -> None:
    run(scripts(LIBRARY)[0][0], worker.directory)
    names = defined("class Inbox", "def fill")
    heard: list[int] = []
    inbox = names["Inbox"](lambda _event_type, payload: heard.append(payload["sequence"]))
    with client(worker) as tracker:
        assert names["fill"](tracker, inbox, HOST, HOST, 0) == 6
        assert names["fill"](tracker, inbox, HOST, HOST, 6) == 6
    assert heard == [1, 2, 3, 4, 5, 6]
    assert inbox.missing() == {}


def test_the_example_that_starts_late_knows_what_is_in_its_pages(worker: WorkerProcess) -> None:
    with client(worker) as tracker:
        for number in range(1, 8):
            tracker.begin_resource_claim({}, HOST, instance_dict(number, **sized(memory_mb=1)))
        tracker.update_usage({}, HOST, {"uuid": uuid(3), "vm_state": "deleted"})
        charged, is_known = defined("def start")["start"](_Paged(tracker), HOST, HOST)
        assert list(charged) == [uuid(number) for number in (1, 2, 4, 5, 6, 7)]
        tracker.finish_resource_claim({}, HOST, charged[uuid(2)]["claim_id"])
        tracker.begin_resource_claim({}, HOST, instance_dict(9, **sized(memory_mb=1)))
        told = [one["payload"] for one in tracker.get_notifications({}, HOST, HOST)["notifications"]]
    of_instances = [payload for payload in told if "instance_id" in payload]
    assert len(of_instances) == 7 + 3
    assert [(payload["instance_id"], payload["claim_state"]) for payload in of_instances if not is_known(payload)] == [
        (uuid(2), "finished"),
        (uuid(9), "begun"),
    ]


class _Paged:
    """A client whose pages have two instances."""

    def __init__(self, tracker: TrackerClient) -> None:
        self._tracker = tracker

    def get_instances(self, *arguments: Any, **options: Any) -> Any:
        return self._tracker.get_instances(*arguments, **options, limit=2)


def test_the_example_of_a_billing_system_keeps_books_of_every_notification(worker: WorkerProcess) -> None:
    heard = heard_by(BILLING, worker)

    assert [answer for answer, _ in heard] == ["new"] * 6
    with SqliteState(worker.directory / "books.sqlite") as state:
        books = Books(state)
        assert (books.missing(), books.odd) == ({}, [])
        # It lasted for less than a second, or for one.
        assert books.usage("2026-01-01", "2100-01-01").keys() <= {"physics"}
        assert sum(name.startswith('["event"') for name in state) == 6
