# SPDX-License-Identifier: Apache-2.0
"""What ``check`` makes of the answers of ``[health] listen``, from a server that answers as a worker does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from tracker_worker.bus.settings import read_settings
from tracker_worker.cli.check.findings import Level, Problem
from tracker_worker.cli.check.health import check_health
from tracker_worker.cli.check.subjects import Installation
from tracker_worker.cli.context import Settings


class Worker:
    """Answers GET /readyz with ``status`` and ``body``, and everything else with 404."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path == "/readyz"
                self.send_response(worker.status if found else 404)
                self.end_headers()
                self.wfile.write(worker.body if found else b"")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def answer(self, *problems: tuple[str, str], ready: bool = False) -> None:
        self.status = 200 if ready else 503
        listed = [{"code": code, "message": message} for code, message in problems]
        self.body = json.dumps({"ready": ready, "problems": listed}).encode()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "worker.conf"
    file.write_text("[DEFAULT]\ntransport_url = rabbit://127.0.0.1:1//\n[tracker]\nhosts = h1\n", encoding="utf-8")
    return file


@pytest.fixture
def installation(file: Path, worker: Worker) -> Installation:
    """Its ``[health] listen`` is the worker's address."""
    settings = Settings((str(file),), ())
    conf = settings.load()
    if "health" not in conf:
        conf.register_opts([cfg.StrOpt("listen", default="")], group="health")
    conf.set_override("listen", f"127.0.0.1:{worker.server.server_port}", group="health")
    return Installation(settings=settings, conf=conf, broker=read_settings(conf), max_outbox_age=60)


def found(installation: Installation) -> list[Problem]:
    return list(check_health(installation))


def test_a_worker_that_is_ready_has_no_problem(installation: Installation, worker: Worker) -> None:
    worker.answer(ready=True)
    assert found(installation) == []


def test_each_problem_of_the_worker_is_a_finding_with_a_cure(
    installation: Installation, worker: Worker, file: Path
) -> None:
    worker.answer(
        ("broker_alarm", "low on memory"), ("other_ledger", "h1"), ("deaf", "h1 \x1b[1m"), ("starting", "soon")
    )
    problems = found(installation)
    assert [problem.level for problem in problems] == [Level.ERROR, Level.ERROR, Level.ERROR, Level.WARNING]
    assert [problem.cure for problem in problems] == [
        "rabbitmq-diagnostics alarms",
        f"tracker-worker --config-file={file} host adopt h1",
        "systemctl restart tracker-worker",
        f"tracker-worker --config-file={file} check",
    ]
    assert problems[0].message.endswith("([health] listen) has a problem: broker_alarm: low on memory")
    assert problems[2].message.endswith("deaf: h1 \\x1b[1m")
    worker.answer(ready=True)
    assert found(installation) == []


def test_a_worker_that_is_not_ready_without_a_reason_is_a_warning(installation: Installation, worker: Worker) -> None:
    worker.answer()
    (problem,) = found(installation)
    assert (problem.level, problem.cure) == (Level.WARNING, "systemctl restart tracker-worker")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff"])
def test_something_else_that_answers_is_a_warning(body: bytes, installation: Installation, worker: Worker) -> None:
    worker.body = body
    (problem,) = found(installation)
    assert problem.level is Level.WARNING
    assert "is no worker of this release" in problem.message


def test_nobody_who_answers_is_a_warning(installation: Installation) -> None:
    installation.conf.set_override("listen", "127.0.0.1:1", group="health")
    (problem,) = found(installation)
    assert (problem.level, problem.message[:35]) == (Level.WARNING, "no worker answers at 127.0.0.1:1 ([")
    assert problem.cure.endswith(" serve")


def test_without_the_option_nothing_is_asked(installation: Installation) -> None:
    installation.conf.set_override("listen", "", group="health")
    assert found(installation) == []
