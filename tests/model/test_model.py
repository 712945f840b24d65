# SPDX-License-Identifier: Apache-2.0
"""A long run of the model, by hand: ``tox -e model``. MODEL_COMMANDS (100000) says how many commands."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.model.machine import Machine

pytestmark = pytest.mark.timeout(0)

_STEPS = 50

TestModel = Machine.TestCase
TestModel.settings = settings(
    database=None,
    deadline=None,
    max_examples=max(1, int(os.environ.get("MODEL_COMMANDS", "100000")) // _STEPS),
    stateful_step_count=_STEPS,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
