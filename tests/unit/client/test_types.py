# SPDX-License-Identifier: Apache-2.0
"""The typed dictionaries of the clients have the keys that the worker reads and answers."""

from __future__ import annotations

from typing import Any

import pytest

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there

# isort: split
from tests.support import doc_story
from tracker_worker.client import types
from tracker_worker.domain import instance
from tracker_worker.domain.resources import CLASSES
from tracker_worker.service.requests.arguments import _CLAIM_KEYS

ANSWERS = doc_story.answers()


def test_an_instance_has_every_field_that_is_read() -> None:
    assert set(types.Instance.__annotations__) == {*instance._READERS, "resources", "node"}


def test_limits_have_every_resource_class() -> None:
    assert set(types.Limits.__annotations__) == {klass.limit for klass in CLASSES}


def test_an_entry_of_a_group_has_every_key_that_is_read() -> None:
    assert set(types.GroupEntry.__annotations__) == set(_CLAIM_KEYS)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (types.Claim, ANSWERS["begin_resource_claim"]),
        (types.Claim, ANSWERS["begin_resource_claims"][0]),
        (types.Fit, ANSWERS["would_fit"]),
        (types.Node, ANSWERS["get_node"]),
        (types.Update, ANSWERS["update_usage"]),
        (types.Allocation, ANSWERS["get_allocation"]),
        (types.Allocation, ANSWERS["release_allocation"]),
        (types.Allocations, ANSWERS["list_allocations"]),
        (types.Comparison, ANSWERS["report_instances"]),
        (types.Adoption, ANSWERS["adopt"]),
        (types.Refusal, ANSWERS["adopt"]["refused"][0]),
        (types.Instances, ANSWERS["get_instances"]),
        (types.Notifications, ANSWERS["get_notifications"]),
        (types.Notification, ANSWERS["get_notifications"]["notifications"][0]),
        (types.ClassInventory, ANSWERS["get_node"]["resources"]["VCPU"]),
    ],
)
def test_an_answer_has_the_keys_of_its_type(kind: Any, answer: dict[str, Any]) -> None:
    assert set(kind.__annotations__) == set(answer)
