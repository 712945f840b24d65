# SPDX-License-Identifier: Apache-2.0
"""A start that cannot succeed ends immediately, with one line that names the necessary change."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.worker_process import NODE, PROGRAM, Options, WorkerProcess

# No broker listens on this port. Each start fails before it would connect.
NOWHERE = "rabbit://user:secret@127.0.0.1:1//"
# Test case -> the wrong options and the text in the line.
WRONG: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "transport URL without a broker": ({"DEFAULT": {"transport_url": "rabbit://"}}, "transport_url"),
    "transport URL of something else": ({"DEFAULT": {"transport_url": "kafka://u:p@h/"}}, "transport_url"),
    "transport URL with a bad port": ({"DEFAULT": {"transport_url": "rabbit://u:p@h:port/"}}, "transport_url"),
    "transport URL with an unknown option": ({"DEFAULT": {"transport_url": "rabbit://u:p@h/?x=1"}}, "transport_url"),
    "transport URL with a $": ({"DEFAULT": {"transport_url": "rabbit://u:pa$secret@h/"}}, "transport_url"),
    "transport URL with an option in $": ({"DEFAULT": {"transport_url": "rabbit://u:pa$host@h/"}}, "write $$ for $"),
    "transport URL with a #": ({"DEFAULT": {"transport_url": "rabbit://u:secret#t@h/"}}, "transport_url"),
    "transport URL with a /": ({"DEFAULT": {"transport_url": "rabbit://u:12/secret@h/"}}, "transport_url"),
    "transport URL with a port out of range": ({"DEFAULT": {"transport_url": "rabbit://u:p@h:70000/"}}, "65535"),
    "transport URL with an empty label": ({"DEFAULT": {"transport_url": "rabbit://u:p@rabbit..example/"}}, "rabbit..example"),
    "transport URL with a long label": ({"DEFAULT": {"transport_url": f"rabbit://u:p@{'x' * 70}/"}}, "transport_url"),
    "name of an exchange": ({"DEFAULT": {"control_exchange": "x" * 256}}, "control_exchange"),
    "login method": ({"oslo_messaging_rabbit": {"rabbit_login_method": "RABBIT-CR-DEMO"}}, "rabbit_login_method"),
    "authority": ({"oslo_messaging_rabbit": {"ssl": True, "ssl_ca_file": "/no/ca.pem"}}, "ssl_ca_file /no/ca.pem"),
    "own certificate": ({"oslo_messaging_rabbit": {"ssl": True, "ssl_cert_file": "/no/c.pem"}}, "ssl_cert_file /no/c.pem"),
    "own key": ({"oslo_messaging_rabbit": {"ssl": True, "ssl_key_file": "/no/k.pem"}}, "ssl_key_file /no/k.pem"),
    "TLS version": ({"oslo_messaging_rabbit": {"ssl": True, "ssl_version": "SSLv3"}}, "ssl_version"),
    "database URL with a $": ({"database": {"connection": "postgresql+psycopg://u:pa$secret@h/d"}}, "write $$ for $"),
    "database URL with an @": ({"database": {"connection": "postgresql+psycopg://u:p@secret@h/d"}}, "connection"),
    "database URL with a password behind it": (
        {"database": {"connection": "postgresql+psycopg://u@127.0.0.1:1/d?password=secret"}},
        "127.0.0.1:1",
    ),
    "inventory driver": ({"tracker": {"inventory_driver": "nosuch"}}, "nosuch"),
    "queue_type": ({"bus": {"queue_type": "stream"}}, "queue_type"),
    "not a number": ({"bus": {"prefetch": "many"}}, "prefetch"),
    "below the minimum": ({"tracker": {"audit_interval_seconds": 0}}, "audit_interval_seconds"),
    "not a choice": ({"tracker": {"missing_limit": "some"}}, "missing_limit"),
    "a flag that is no flag": ({"DEFAULT": {"debug": "perhaps"}}, "debug"),
    "log file in a directory that is not there": ({"DEFAULT": {"log_file": "/no/such/w.log"}}, "log_file /no/such/w.log"),
    "log directory that is not there": ({"DEFAULT": {"log_dir": "/no/such"}}, "log_dir /no/such"),
    "log configuration that is not there": ({"DEFAULT": {"log_config_append": "/no/such"}}, "log_config_append /no/such"),
    "journal without its library": ({"DEFAULT": {"use_journal": True}}, "use_journal"),
    "log levels": ({"DEFAULT": {"default_log_levels": "amqp=LOUD"}}, "default_log_levels"),
    "deprecated option with nonsense": ({"oslo_messaging_rabbit": {"heartbeat_rate": "x"}}, "heartbeat_rate"),
    "hosts without a comma": ({"tracker": {"hosts": "h1 h2"}}, "hosts"),
    "host with an empty label": ({"tracker": {"hosts": "h1..x"}}, "hosts"),
    "host that is too long": ({"tracker": {"hosts": "h" * 255}}, "hosts"),
    "topic that stands for all": ({"tracker": {"topic": "#"}}, "topic"),
    "health listener without a port": ({"health": {"listen": "127.0.0.1"}}, "[health] listen 127.0.0.1 is no address"),
    "health listener elsewhere": ({"health": {"listen": "192.0.2.1:9710"}}, "[health] listen 192.0.2.1:9710 cannot be used"),
    "no host": ({"tracker": {"hosts": ""}}, "hosts"),
    "many hosts, one machine": ({"tracker": {"hosts": "h1, h2", "inventory_driver": "host"}}, "inventory_driver"),
    "database URL": ({"database": {"connection": "nonsense"}}, "connection"),
    "database of another kind": ({"database": {"connection": "mysql://u:secret@h/d"}}, "connection"),
    "database out of reach": ({"database": {"connection": "postgresql+psycopg://u:secret@127.0.0.1:1/d"}}, "127.0.0.1:1"),
    "database in a directory that is not there": ({"database": {"connection": "sqlite:////no/such/file"}}, "/no/such/file"),
}  # fmt: skip


def start_of(directory: Path, options: Options, *, environment: dict[str, str] | None = None) -> WorkerProcess:
    return WorkerProcess(
        directory,
        transport_url=NOWHERE,
        hosts={"h1": {"n1": NODE}},
        options=options,
        environment=environment,
    )


def only_line(worker: WorkerProcess) -> str:
    """Run a worker whose start must fail, and return the line with the reason."""
    try:
        assert worker.run() == 1
    finally:
        worker.close()
    lines = worker.plain_lines()
    assert len(lines) == 1, worker.log()
    assert "Traceback" not in worker.log()
    assert "secret" not in worker.log()
    return lines[0]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_start_with_a_wrong_option_names_it_in_one_line(tmp_path: Path, wrong: str) -> None:
    options, named = WRONG[wrong]

    assert named in only_line(start_of(tmp_path, options))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "directory"),
        (lambda path: path.write_text("nodes: {n1: [", encoding="utf-8"), "line 1"),
        (lambda path: path.write_text("nodes: {n1: {vcpus: 1}}", encoding="utf-8"), "memory_mb"),
        (lambda path: path.write_text("hosts: {h2: {nodes: {n: {}}}}", encoding="utf-8"), "does not have"),
        (lambda path: path.write_bytes(b"\xff\xfe\x80"), "inventory.yaml"),
    ],
    ids=["missing", "a directory", "no YAML", "incomplete", "incomplete host", "no text"],
)
def test_a_start_with_a_bad_inventory_file_names_it(tmp_path: Path, spoil: Callable[[Path], Any], named: str) -> None:
    worker = start_of(tmp_path, {})
    spoil(worker.inventory)

    line = only_line(worker)

    assert str(worker.inventory) in line
    assert named in line


def test_a_start_names_a_state_directory_that_it_cannot_create(tmp_path: Path) -> None:
    # The path is below a file because root may write to every directory.
    occupied = tmp_path / "file"
    occupied.touch()

    line = only_line(start_of(tmp_path, {"tracker": {"state_path": occupied / "state"}}))

    assert f"state_path {occupied / 'state'}" in line


def test_a_start_names_a_database_file_that_is_not_a_database(tmp_path: Path) -> None:
    file = tmp_path / "tracker.sqlite"
    file.write_bytes(b"this is no database" * 1000)

    assert str(file) in only_line(start_of(tmp_path, {"database": {"connection": f"sqlite:///{file}"}}))


def test_a_start_names_a_wrong_option_from_the_environment(tmp_path: Path) -> None:
    worker = start_of(tmp_path, {}, environment={"OS_BUS__QUEUE_TYPE": "stream"})

    assert "stream" in only_line(worker)


def test_a_start_names_a_missing_configuration_file(tmp_path: Path) -> None:
    worker = start_of(tmp_path, {})
    worker.configuration.unlink()

    assert str(worker.configuration) in only_line(worker)


def test_a_start_names_a_configuration_file_that_it_cannot_parse(tmp_path: Path) -> None:
    worker = start_of(tmp_path, {})
    worker.configuration.write_text("[tracker\nhosts", encoding="utf-8")

    assert str(worker.configuration) in only_line(worker)


def test_a_start_names_a_configuration_file_that_is_no_text(tmp_path: Path) -> None:
    worker = start_of(tmp_path, {})
    worker.configuration.write_bytes(bytes(range(256)))

    assert str(worker.configuration) in only_line(worker)


def in_a_house_without_a_home(*command: str | Path) -> list[str | Path]:
    """``command`` as a user whom the system does not know, and without HOME."""
    return ["unshare", "--user", "--map-user=54321", "env", "-u", "HOME", *command]


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"], ["config", "sample"]])
def test_without_a_home_directory_the_command_line_explains_itself(arguments: list[str]) -> None:
    done = subprocess.run(in_a_house_without_a_home(PROGRAM, *arguments), capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_home_directory_a_start_names_state_path_unless_it_is_set(tmp_path: Path) -> None:
    worker = start_of(tmp_path, {})
    command = in_a_house_without_a_home(PROGRAM, f"--config-file={worker.configuration}", "serve")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("no connection to 127.0.0.1:1" in line for line in process.stderr)
        finally:
            process.terminate()
            process.stderr.read()
    text = worker.configuration.read_text(encoding="utf-8")
    worker.configuration.write_text(text.replace("state_path", "#state_path"), encoding="utf-8")

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("set [tracker] state_path")


def test_a_line_that_cannot_be_parsed_is_not_repeated(tmp_path: Path) -> None:
    worker = start_of(tmp_path, {})
    worker.configuration.write_text("[DEFAULT]\n  rabbit://u:secret@h/\n", encoding="utf-8")

    assert f"{worker.configuration}:2" in only_line(worker)


def test_a_start_on_postgresql_without_a_schema_names_the_upgrade_command(tmp_path: Path, postgresql_url: str) -> None:
    line = only_line(start_of(tmp_path, {"database": {"connection": postgresql_url}}))

    assert "tracker-worker db upgrade" in line
