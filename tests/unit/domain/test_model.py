# SPDX-License-Identifier: Apache-2.0
"""A short run of the model: any commands in any order on two databases. ``tox -e model`` makes a long one.

Derandomized: every run is the same, so a failure in CI can be reproduced.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.model.machine import Machine

TestModel = Machine.TestCase
TestModel.settings = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
