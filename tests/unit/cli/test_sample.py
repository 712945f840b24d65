# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker config sample`` and the other files in etc/."""

from __future__ import annotations

import configparser
import os
import re
import socket
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Cli
from tracker_worker.conf import list_opts

ETC = Path(__file__).parents[3] / "etc"
SAMPLE = ETC / "tracker-worker.conf.sample"
UNIT = ETC / "tracker-worker.service"


def _unit(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_the_sample_file_is_current(cli: Cli) -> None:
    assert SAMPLE.read_text(encoding="utf-8") == cli.succeed("config", "sample"), (
        "write it again: tracker-worker config sample > etc/tracker-worker.conf.sample"
    )


def test_the_sample_is_written_to_the_given_file(cli: Cli, tmp_path: Path) -> None:
    assert cli.succeed("config", "sample", "--output", str(tmp_path / "sample")) == ""
    assert (tmp_path / "sample").read_text(encoding="utf-8") == SAMPLE.read_text(encoding="utf-8")


@pytest.mark.parametrize("umask", [0o000, 0o277])
def test_the_written_file_can_be_read_by_its_user_only(cli: Cli, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        cli.succeed("config", "sample", "--output", str(tmp_path / "sample"))
    finally:
        os.umask(before)
    assert (tmp_path / "sample").stat().st_mode & 0o777 == 0o600


def test_a_file_that_exists_is_replaced_with_force_only(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "sample"
    file.write_text("precious")
    file.chmod(0o644)
    refusal = cli.refuse("config", "sample", "--output", str(file))
    assert (refusal, file.read_text()) == (f"{file} exists: it is replaced with --force only", "precious")
    cli.succeed("config", "sample", "--output", str(file), "--force")
    assert file.read_text(encoding="utf-8") == SAMPLE.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o777 == 0o600
    assert cli.run("config", "sample", "--force").exit_code == 2


def test_a_file_that_cannot_be_written_is_an_error(cli: Cli, tmp_path: Path) -> None:
    assert "cannot be written" in cli.refuse("config", "sample", "--output", str(tmp_path / "none" / "sample"))


@pytest.mark.parametrize("name", [option.name for _, options in list_opts() for option in options])
def test_the_sample_has_each_option_of_the_worker(name: str) -> None:
    assert re.search(rf"^#{name} =( |$)", SAMPLE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(
    "line",
    [
        "#transport_url = rabbit://",
        "#control_exchange = openstack",
        "#rpc_response_timeout = 60",
        "#heartbeat_timeout_threshold = 60",
        "#rabbit_quorum_queue = false",
        "#ssl = false",
        "#debug = false",
    ],
)
def test_the_sample_has_the_options_of_the_libraries(line: str) -> None:
    assert line in SAMPLE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["rpc_ping_enabled", "executor_thread_pool_size", "oslo_messaging_kafka"])
def test_the_sample_has_no_option_that_a_worker_does_not_read(name: str) -> None:
    assert name not in SAMPLE.read_text(encoding="utf-8")


def test_the_sample_has_no_name_of_the_machine_that_made_it() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    assert str(Path.home()) + "/" not in text
    assert not re.search(rf"= .*\b{re.escape(socket.gethostname())}\b", text)


def test_the_sample_is_a_valid_configuration(cli: Cli) -> None:
    """The test sets every option of the sample except options without a sensible value."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    assigned = [
        re.sub(r"^#(\w+ = )", r"\1", line) for line in lines if not re.search(r"= (<.*|.*<state_path>.*)$", line)
    ]
    cli.configure("\n".join([*assigned, "[tracker]", f"state_path = {cli.state}", ""]))
    assert cli.refuse("node", "list").startswith("there is no database ")


def test_the_unit_waits_for_ready_and_restarts_after_a_failure() -> None:
    service = _unit(UNIT.read_text(encoding="utf-8"))["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "on-failure"
    assert service["ExecStart"].endswith(" serve")
    assert "-HUP" in service["ExecReload"]


def test_the_unit_sets_no_limit_that_the_inventory_would_report_as_the_capacity() -> None:
    service = _unit(UNIT.read_text(encoding="utf-8"))["Service"]
    assert not [name for name in service if re.match(r"Memory(Max|High)|CPUQuota|CPUAffinity|AllowedCPUs", name)]
