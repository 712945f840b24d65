# SPDX-License-Identifier: Apache-2.0
"""What tests share: builders, harnesses, clients, workers as processes."""

import pytest

# These assert on behalf of tests; a claim that fails there shall say as much as one in a test module.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("bus", "engine", "store", "tracker", "worker")))
