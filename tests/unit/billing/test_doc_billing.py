# SPDX-License-Identifier: Apache-2.0
"""The sessions of doc/user/billing.md give the output that the page shows, and the program of billing-with.md for OpenMeter is
the one that `tox -e billing` runs."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from random import Random

import pytest

from tests.support.billing.api import StandInAPI
from tests.support.billing.cloud import Cloud
from tests.support.builders import NOW, uuid
from tests.support.doc_pages import DOC, ROOT, blocks, wrong_sessions
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso

PAGE = DOC / "user" / "billing.md"
MINUTE = 60 * SECOND


def cloud() -> Cloud:
    """An instance that ran already is adopted, grows, and moves to another host, whose old one hears of it late."""
    cloud = Cloud(Random(1), interrupts=False)
    small = {"uuid": uuid(1), "project_id": "p", "node": "a", "vm_state": "active"}
    small |= {"vcpus": 1, "memory_mb": 512, "root_gb": 1, "ephemeral_gb": 0}
    large = {**small, "vcpus": 4, "memory_mb": 2048, "root_gb": 4}
    cloud.pass_until(NOW + 10 * MINUTE)
    cloud.call("h1", "adopt", instances=[small])
    cloud.pass_until(NOW + 30 * MINUTE)
    cloud.call("h1", "update_usage", instance=large)
    cloud.pass_until(NOW + 40 * MINUTE)
    move = {"id": "m", "kind": "live_migration", "from_host": "h1", "from_node": "a"}
    begun = cloud.call("h2", "begin_move_claim", instance=large, move=move, timeout=3600)
    cloud.pass_until(NOW + 45 * MINUTE)
    told = cloud.call("h2", "finish_move", move_id="m", move=begun)
    cloud.pass_until(NOW + 80 * MINUTE)
    cloud.call("h1", "finish_move", move_id="m", move=told, effective_at=iso(NOW + 45 * MINUTE))
    cloud.pass_until(NOW + 130 * MINUTE)
    return cloud


def test_the_sessions_of_the_billing_page_give_the_output_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # one of the sessions creates a database
    of = cloud()
    names: dict[str, object] = {
        "messages": of.tape.heard,
        "api": StandInAPI(of, forgets=1000),
        "outbox": StandInAPI(of),
        "context": {"user_id": "billing"},
    }
    assert wrong_sessions(PAGE, names, least=6) == ""


def test_the_program_that_posts_to_openmeter_is_the_one_of_the_page() -> None:
    [program] = blocks(DOC / "user" / "billing-with.md", "python")
    _, post = program.text.split('token="om_...")\n')
    run = (ROOT / "tests" / "billing" / "post_events.py").read_text()
    assert textwrap.indent(re.sub("  #.*", "", post), "    ") in run
