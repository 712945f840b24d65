# SPDX-License-Identifier: Apache-2.0
"""Shared parts of the tests: builders, harnesses, clients, workers as processes."""

import pytest

# These modules assert on behalf of tests, so their failed assertions must show as much as those in a test module.
pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("builders", "bus", "engine", "store", "tracker", "worker"))
)
