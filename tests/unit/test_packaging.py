# SPDX-License-Identifier: Apache-2.0
"""constraints.txt, Containerfile, compose.yaml and the systemd unit fit the package and each other."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.support import constraints
from tests.support.doc_pages import ROOT
from tracker_worker.conf import list_opts

UNIT = ROOT / "etc" / "tracker-worker.service"
CONTAINERFILE = (ROOT / "Containerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")
INSTALL = ROOT / "doc" / "admin" / "install.md"
STATE = "/var/lib/tracker-worker"
# Options of oslo.messaging that the worker reads.
_LIBRARY = {"OS_DEFAULT__TRANSPORT_URL"}
_RABBIT = {"AMQP_DURABLE_QUEUES", "RABBIT_TRANSIENT_QUORUM_QUEUE"}


def test_the_constraints_meet_every_requirement_and_pin_nothing_else() -> None:
    needed = constraints.closure(constraints.declared())
    wrong = constraints.broken(constraints.read(constraints.FILE.read_text(encoding="utf-8")), needed)
    assert wrong == [], "write it again: tox -e constraints"


def test_a_pin_that_is_missing_wrong_or_left_over_is_found() -> None:
    needed = constraints.closure(constraints.declared())
    pins = constraints.read(constraints.FILE.read_text(encoding="utf-8"))
    pins |= {"alembic": "1.0", "left-over": "1"}
    del pins["click"]
    wrong = constraints.broken(pins, needed)
    assert len(wrong) == 3
    assert "click has no pin" in wrong
    assert "left-over is not needed" in wrong
    assert any(line.startswith("alembic==1.0 is not alembic>=") for line in wrong)


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of this name, with its continuation lines."""
    joined = re.sub(r"\\\n\s*", "", CONTAINERFILE)
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_the_image_is_built_from_files_that_a_source_distribution_has() -> None:
    copied = [words for words in map(str.split, instructions("COPY")) if not words[0].startswith("--from")]
    named = {name for *names, _ in copied for name in names}
    assert all((ROOT / name).exists() for name in named)
    # What setup.cfg and the build need.
    assert named >= {
        "setup.py",
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "tracker_worker",
        "constraints.txt",
    }
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    for name in ("constraints.txt", "Containerfile", "compose.yaml", "tox.ini", "bindep.txt"):
        assert f"include {name}" in manifest


def test_the_image_runs_as_another_user_than_root_and_owns_its_state_alone() -> None:
    (user,) = instructions("USER")
    assert user == "10001:10001"
    (made,) = [line for line in instructions("RUN") if "useradd" in line]
    assert "--uid 10001" in made
    assert f"install --directory --owner=10001 --group=10001 --mode=0700 {STATE}" in made
    assert instructions("VOLUME") == [STATE]
    assert any(f"OS_TRACKER__STATE_PATH={STATE}" in line for line in instructions("ENV"))
    assert [json.loads(line) for line in (*instructions("ENTRYPOINT"), *instructions("CMD"))] == [
        ["tracker-worker"],
        ["serve"],
    ]


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on the port that it yields."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def health_check(port: int) -> int:
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "python"
    assert ":9710/" in command[2]
    here = [sys.executable, *command[1:2], command[2].replace(":9710/", f":{port}/")]
    return subprocess.run(here, capture_output=True, timeout=30).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_fails_where_the_worker_is_not_alive(status: int, code: int) -> None:
    with answering(status) as port:
        assert health_check(port) == code


def test_the_health_check_fails_where_nobody_listens() -> None:
    with answering(200) as port:
        pass
    assert health_check(port) == 1


def test_the_services_wait_for_what_they_need() -> None:
    services = yaml.safe_load(COMPOSE)["services"]
    assert set(services) == {"rabbitmq", "postgresql", "schema", "worker"}
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in services, f"{name} depends on {other}"
            if condition["condition"] == "service_healthy":
                assert services[other]["healthcheck"]["test"][0] == "CMD"
    assert services["worker"]["depends_on"] == {
        "schema": {"condition": "service_completed_successfully"},
        "rabbitmq": {"condition": "service_healthy"},
    }
    assert services["schema"]["command"] == ["db", "upgrade"]
    assert all("image" in service for service in services.values())
    assert {service["build"]["dockerfile"] for service in services.values() if "build" in service} == {"Containerfile"}


def test_the_volumes_exist_and_the_password_is_asked_for() -> None:
    document = yaml.safe_load(COMPOSE)
    mounted = {
        volume.partition(":")[0] for service in document["services"].values() for volume in service.get("volumes", ())
    }
    assert mounted == set(document["volumes"])
    variables = re.findall(r"\$\{(\w+)([^}]*)\}", COMPOSE)
    assert {name for name, _ in variables} == {
        "TRACKER_PASSWORD",
        "TRACKER_HOSTS",
        "RABBITMQ_VERSION",
        "POSTGRESQL_VERSION",
    }
    assert all(rest.startswith(":?" if name == "TRACKER_PASSWORD" else ":-") for name, rest in variables)


def test_every_option_of_the_services_is_one_that_the_worker_reads() -> None:
    environment = yaml.safe_load(COMPOSE)["services"]["worker"]["environment"]
    known = {f"OS_{group}__{option.name}".upper() for group, options in list_opts() for option in options}
    known |= _LIBRARY | {f"OS_OSLO_MESSAGING_RABBIT__{name}" for name in _RABBIT}
    assert set(environment) <= known


def test_the_versions_of_the_servers_are_those_that_are_tested() -> None:
    page = INSTALL.read_text(encoding="utf-8")
    (rabbitmq,) = re.findall(r"RABBITMQ_VERSION:-([^}]+)}", COMPOSE)
    assert f"| {rabbitmq} | yes" in page
    (postgresql,) = re.findall(r"POSTGRESQL_VERSION:-([^}]+)}", COMPOSE)
    assert re.search(rf"tested with\s+version {postgresql}\.", page)


def test_the_unit_keeps_the_state_from_other_users() -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert "\nUMask=0077\n" in text
    assert "\nStateDirectoryMode=0700\n" in text
