# SPDX-License-Identifier: Apache-2.0
"""What a broker says of a queue that is neither durable nor exclusive, and what is declared then."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from amqp.exceptions import AccessRefused, AMQPError, InternalError, NotFound, PreconditionFailed

from tests.support.channels import SETTINGS
from tracker_worker.bus.amqp import refusals, topology
from tracker_worker.bus.amqp.durability import Durability

DECLARE = (50, 10)
DEPRECATED = (
    "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nBy default, this feature is not permitted"
)
REFUSALS = [
    InternalError(DEPRECATED, DECLARE),
    AccessRefused("ACCESS_REFUSED - transient non-exclusive queues are not allowed", DECLARE),
    PreconditionFailed("PRECONDITION_FAILED - transient_nonexcl_queues", DECLARE),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: str(error.code))
def test_from_a_refusal_on_everything_that_clients_share_is_durable(error: AMQPError) -> None:
    durability = Durability(SETTINGS)
    assert durability.adapt(error, SETTINGS)
    assert durability.settings.declares_durable
    dead_letters, *notifications = topology.published(durability.settings)
    assert len(notifications) == 2
    assert all(queue.durable and not queue.exclusive for queue in notifications)
    # It is no other queue otherwise.
    plain = topology.published(SETTINGS)
    assert [replace(queue, durable=False) for queue in notifications] == plain[1:]
    assert dead_letters == plain[0]


def test_several_connections_that_are_refused_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    durability = Durability(SETTINGS)
    with caplog.at_level(logging.INFO):
        assert durability.adapt(REFUSALS[0], SETTINGS)
        assert durability.adapt(REFUSALS[0], SETTINGS)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "amqp_durable_queues = true" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_what_was_declared_durable_is_not_declared_durable_again(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise a broker that refuses that too would be connected to without a pause."""
    durability = Durability(SETTINGS)
    durability.adapt(REFUSALS[0], SETTINGS)
    caplog.clear()
    assert not durability.adapt(REFUSALS[0], durability.settings)
    durable = replace(SETTINGS, durable=True)
    assert not Durability(durable).adapt(REFUSALS[0], durable)
    assert caplog.records == []


@pytest.mark.parametrize(
    "error",
    [
        InternalError("INTERNAL_ERROR", DECLARE),
        PreconditionFailed("PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'notifications.info'", DECLARE),
        AccessRefused("ACCESS_REFUSED - access to queue 'notifications.info' refused", DECLARE),
        NotFound("NOT_FOUND - no queue 'transient_nonexcl_queues'", DECLARE),
        OSError("transient_nonexcl_queues"),
    ],
    ids=repr,
)
def test_other_errors_change_nothing(error: Exception) -> None:
    durability = Durability(SETTINGS)
    assert not durability.adapt(error, SETTINGS)
    assert durability.settings is SETTINGS


def test_no_message_is_suspected_because_of_a_queue() -> None:
    assert refusals.connection_ended_for_a_message(InternalError("INTERNAL_ERROR", (60, 40)))
    assert not refusals.connection_ended_for_a_message(REFUSALS[0])
