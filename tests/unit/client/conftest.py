# SPDX-License-Identifier: Apache-2.0
"""The client API on a scripted transport."""

from __future__ import annotations

from pathlib import Path

import pytest

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tests.support.scheduler import ScriptedTransport, scheduler_conf
from tracker_worker.client.api import TrackerAPI


@pytest.fixture
def scripted_transport(monkeypatch: pytest.MonkeyPatch) -> ScriptedTransport:
    """Replace the driver of every fake:// transport of this test."""
    recorder = ScriptedTransport()
    send = "oslo_messaging._drivers.impl_fake.FakeDriver.send"
    monkeypatch.setattr(send, lambda _, *args, **options: recorder.send(*args, **options))
    return recorder


@pytest.fixture
def api(scripted_transport: ScriptedTransport, tmp_path: Path) -> TrackerAPI:
    return TrackerAPI(scheduler_conf(tmp_path))
