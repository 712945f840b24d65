# SPDX-License-Identifier: Apache-2.0
"""The systemd unit is valid, and the options of compose.yaml are those of a worker that works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import sqlalchemy as sa
import yaml

from tests.support import stock
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.doc_pages import ROOT, blocks
from tests.support.worker_process import PROGRAM

UNIT = ROOT / "etc" / "tracker-worker.service"
INSTALL = ROOT / "doc" / "admin" / "install.md"


def test_the_unit_is_valid_where_the_page_installs_the_program(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "systemd-analyze cannot be found: install the package systemd, which bindep.txt lists"
    text = UNIT.read_text(encoding="utf-8")
    (installed,) = re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE)
    page = "".join(block.text for block in blocks(INSTALL, "console"))
    assert f"{installed.removesuffix('/tracker-worker')}/pip install" in page
    assert "systemd-analyze verify /etc/systemd/system/tracker-worker.service" in page
    unit = tmp_path / "tracker-worker.service"

    def verified(text: str) -> tuple[int, str]:
        unit.write_text(text, encoding="utf-8")
        done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    here = text.replace(installed, str(PROGRAM))
    assert verified(here) == (0, "")
    # It does find mistakes.
    assert verified(here.replace("RestartSec=5", "RestartSeconds=5"))[1]
    assert verified(text.replace(installed, "/no/such/program"))[0] != 0


def test_the_services_of_the_compose_file_have_what_a_worker_needs(
    tmp_path: Path, broker_vhost: str, postgresql_url: str
) -> None:
    """With other servers and passwords, of which everything else is as the file has it."""
    service = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["worker"]
    there = dict(service["environment"])
    password = r"tracker:\$\{TRACKER_PASSWORD:\?[^}]*\}"
    assert re.fullmatch(rf"rabbit://{password}@rabbitmq:5672/", there["OS_DEFAULT__TRANSPORT_URL"])
    assert re.fullmatch(rf"postgresql\+psycopg://{password}@postgresql:5432/tracker", there["OS_DATABASE__CONNECTION"])
    there |= {"OS_DEFAULT__TRANSPORT_URL": broker_vhost, "OS_DATABASE__CONNECTION": postgresql_url}
    there["OS_TRACKER__HOSTS"] = re.sub(r"\$\{TRACKER_HOSTS:-(.*)\}", r"\1", there["OS_TRACKER__HOSTS"])
    environment = {"PATH": os.environ["PATH"], **there, "OS_TRACKER__STATE_PATH": str(tmp_path / "state")}
    empty = tmp_path / "empty.conf"
    empty.touch()

    upgraded = subprocess.run(
        [PROGRAM, "--config-file", empty, "db", "upgrade"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (upgraded.returncode, upgraded.stderr) == (0, "")
    assert sa.make_url(postgresql_url).password not in upgraded.stdout

    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen([PROGRAM, "--config-file", empty, "serve"], env=environment, stderr=sink)
    try:
        options = {"amqp_durable_queues": True, "rabbit_transient_quorum_queue": True}
        with stock.client(broker_vhost, **options) as client:
            wait_until(lambda: b" ready: active for compute-1" in log.read_bytes(), "the worker is ready")
            assert client.call("compute-1", "begin_resource_claim", instance=instance_dict(1, **sized(memory_mb=1)))
    finally:
        process.terminate()
        assert process.wait(30) == 0
