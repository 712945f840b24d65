# SPDX-License-Identifier: Apache-2.0
"""A run without violations, which a test doctors."""

from __future__ import annotations

import pytest

from tests.invariants.scene import PLACE, Scene
from tests.support.builders import uuid


@pytest.fixture
def scene() -> Scene:
    """Two instances: the first claim is finished and its instance updated, the second claim is begun."""
    scene = Scene()
    scene.begin(1, limits={"vcpu": 8})
    scene.cast("update_usage", instance={"uuid": uuid(1), "node": PLACE[1], "display_name": "renamed"})
    scene.call("finish_resource_claim", claim_id=uuid(1))
    scene.begin(2, limits={"vcpu": 8})
    return scene
