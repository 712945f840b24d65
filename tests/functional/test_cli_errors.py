# SPDX-License-Identifier: Apache-2.0
"""Errors as JSON documents, and tables in narrow terminals, beside a worker and a broker that are really there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import MakeWorker
from tests.functional.test_cli import HOSTS, SMALL, Operator
from tests.support.commands import check_output
from tests.support.worker_process import PROGRAM

NODE = "a-node-whose-name-is-longer-than-the-narrowest-terminal-that-anybody-still-uses"


@pytest.fixture
def operator(make_worker: MakeWorker) -> Operator:
    """The operator of a worker that serves h1, with the node n1, and h2, whose node has a long name."""
    worker = make_worker(hosts={**HOSTS, "h2": {NODE: HOSTS["h1"]["n1"]}})
    worker.start()
    worker.wait_ready()
    return Operator(worker)


def error_of(operator: Operator, *arguments: str) -> Any:
    """Run a subcommand that must be refused with --format json, and return the error on its stdout."""
    done = operator.run(*arguments, "--format", "json")
    assert done.returncode == 1, done
    printed = json.loads(done.stdout)
    check_output(arguments, printed)
    assert done.stderr == f"tracker-worker: {printed['error']['message']}\n"
    return printed["error"]


def test_the_refusals_of_a_worker_keep_their_codes_and_facts(operator: Operator) -> None:
    refused = error_of(
        operator,
        *("claim", "begin", "--host", "h1", "--vcpus", "9", "--memory-mb", "1", "--root-gb", "1", "--limit-vcpu", "8"),
    )
    assert refused["code"] == "insufficient_resources"
    assert refused["kwargs"]["shortfalls"] == [{"resource": "VCPU", "requested": 9, "used": 0, "limit": 8}]
    refused = error_of(operator, "claim", "begin", "--host", "h1", "--node", "n9", *SMALL)
    assert (refused["code"], refused["kwargs"]) == ("node_not_found", {"host": "h1", "node": "n9"})
    refused = error_of(operator, "claim", "begin", "--host", "h1", *SMALL, "--limit", "FPGA=1", "--resource", "X=1")
    assert refused["code"] in ("invalid_input", "insufficient_resources")


def test_what_has_ended_is_not_found_and_a_host_without_a_worker_has_none(operator: Operator) -> None:
    found = error_of(operator, "claim", "finish", "c-1", "--host", "h1")
    assert (found["code"], found["kwargs"]) == ("not_found", {"host": "h1", "claim_id": "c-1"})
    found = error_of(operator, "claim", "begin", "--host", "h9", *SMALL)
    assert (found["code"], found["kwargs"]) == ("no_worker", {"queue": "tracker.h9"})
    found = error_of(operator, "dead-letter", "show", "7")
    assert (found["code"], found["kwargs"]) == ("not_found", {"name": "7"})


def test_an_answer_that_does_not_come_is_a_timeout(operator: Operator) -> None:
    operator.worker.signal(signal.SIGSTOP)
    try:
        found = error_of(operator, "claim", "begin", "--host", "h1", *SMALL, "--wait", "1")
    finally:
        operator.worker.signal(signal.SIGCONT)
    assert (found["code"], found["kwargs"]) == ("timeout", {"seconds": 1})


def test_watch_ends_with_an_error_on_a_line_of_its_own(operator: Operator, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.conf"
    wrong.write_text("[DEFAULT]\ntransport_url = rabbit://u:p@127.0.0.1:1//\n")
    done = subprocess.run(
        [PROGRAM, f"--config-file={wrong}", "watch", "--format", "json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["error"]["code"] == "broker_unreachable"


def test_what_watch_prints_is_what_its_schema_says(operator: Operator, tmp_path: Path) -> None:
    with operator.watching(tmp_path, "--format", "json", "--count", "2") as watch:
        begun = operator.json("claim", "begin", "--host", "h1", *SMALL)
        operator.json("claim", "finish", begun["claim_id"], "--host", "h1")
        for line in watch.wait_lines(2):
            check_output(("watch",), json.loads(line))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_an_audit_and_dead_letters_fit_into_the_terminal(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    check_output(("audit",), operator.json("audit", "--all"))
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv(
        "LINES", "24"
    )  # so that it is known, and unset also where readline has set it for child processes
    monkeypatch.delenv("LINES")
    for arguments in (("audit", "--host", "h2"), ("audit", "--host", "h2", "--wide"), ("dead-letter", "list")):
        done = operator.run(*arguments)
        assert done.returncode == 0, done
        for line in [*done.stdout.splitlines(), *done.stderr.splitlines()]:
            assert len(line) <= width or line.strip() == NODE, line
        if arguments[0] == "audit":
            assert NODE in done.stdout


def test_the_completion_of_bash_is_a_script_that_bash_reads() -> None:
    script = subprocess.run([PROGRAM, "completion", "bash"], capture_output=True, text=True, timeout=60, check=True)
    checked = subprocess.run(["bash", "-n"], input=script.stdout, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")
    asked = f"{script.stdout}\nCOMP_WORDS=(tracker-worker no); COMP_CWORD=1; PATH={PROGRAM.parent}:$PATH\n"
    asked += '_tracker_worker_completion tracker-worker; echo "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60)
    assert done.stdout == "node\n", (done, sys.executable)
