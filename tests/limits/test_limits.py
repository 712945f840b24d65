# SPDX-License-Identifier: Apache-2.0
"""What once took more than a gigabyte, or kept the other host waiting for seconds."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.limits import bodies
from tests.limits.conftest import HOST, SLOWEST_SECONDS, TOPIC, MakeStage, Stage
from tests.support import raw
from tests.support.builders import instance_dict, sized
from tests.support.callers import small
from tests.support.deadline import wait_until

pytestmark = pytest.mark.timeout(900)

only_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)

BROKER_LIMIT = 16 << 20
CLASSIC = {"queue_type": "classic"}


@contextmanager
def piled_up(stage: Stage) -> Iterator[None]:
    """Let the messages that the body sends wait in the queue, so that the worker gets them all at once."""
    stage.worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stage.worker.signal(signal.SIGCONT)


def wait_quiet(stage: Stage, *, seconds: float) -> None:
    """Wait until the host's queue is empty, and the host answers what was sent after it was."""
    with raw.connect(stage.url) as connection:
        wait_until(lambda: connection.count(TOPIC) == 0, "the queue is empty", seconds=seconds)
    with stage.callers() as callers:
        assert callers.answer(HOST, "get_node", seconds).failure is None


@only_sqlite
@pytest.mark.parametrize("kind", list(bodies.KINDS))
def test_bodies_of_28_mib(make_stage: MakeStage, kind: str) -> None:
    stage = make_stage(bus=CLASSIC)
    called: list[str] = []
    times = 4
    with raw.connect(stage.url) as connection, stage.served():
        for call in (True, False) * times:
            request = connection.request("begin_resource_claim", {}, call=call)
            body, properties = bodies.KINDS[kind](request)
            connection.publish(TOPIC, body, **properties)
            if call:
                called.append(request["_msg_id"])
        parked = times
        if kind in bodies.UNANSWERABLE:
            called, parked = [], 2 * times
        wait_until(lambda: connection.count(raw.DEAD_LETTERS) == parked, f"{parked} are parked", seconds=120)
        failures = [connection.reply(msg_id)["failure"] for msg_id in called]
        wait_quiet(stage, seconds=60)

    assert all("InvalidInput" in failure and "body" in failure for failure in failures)
    stage.survived()


def letters() -> dict[str, Any]:
    return {"metadata": {"k": "x" * 500_000}, "image_meta": {"k": "y" * 500_000}}


def control_characters() -> dict[str, Any]:
    """JSON writes each of these in six bytes, which is over the limit of a field."""
    return {"metadata": {"k": "\1" * 1_000_000}}


# An operator who allows fields of a megabyte lowers the prefetch (doc/admin/sizing.md); who does not need not.
LARGE_FIELDS = {"max_field_bytes": 1_048_576, "prefetch": 16}


@pytest.mark.parametrize("fields", [letters, control_characters], ids=lambda fields: fields.__name__)
@pytest.mark.parametrize("options", [{"prefetch": 512}, LARGE_FIELDS], ids=["refused", "allowed"])
def test_150_casts_of_a_megabyte(
    make_stage: MakeStage, options: dict[str, int], fields: Callable[[], dict[str, Any]]
) -> None:
    casts = 150
    stage = make_stage(bus={**CLASSIC, "max_body_bytes": 2_000_000, **options})
    with raw.connect(stage.url) as connection:
        with piled_up(stage):
            for _ in range(casts):
                size = sized(vcpus=1, memory_mb=1, disk_gb=1)
                instance = instance_dict(uuid=str(uuid.uuid4()), node="n1", **size, **fields())
                connection.publish(TOPIC, bodies.packed_as_msgpack(connection, instance), **raw.MSGPACK)
        began_at = time.monotonic()
        with stage.served():
            wait_quiet(stage, seconds=300)
        stage.note(f"{casts} casts in {time.monotonic() - began_at:.1f} s")
        with stage.callers() as callers:
            charged = callers.answer(HOST, "get_node", 30).result["running_vms"]

        assert charged == (casts if options is LARGE_FIELDS and fields is letters else 0)
        parked = casts - charged
        wait_until(lambda: connection.count(raw.DEAD_LETTERS) == parked, f"{parked} are parked", seconds=60)
    stage.survived()


@pytest.fixture
def limited_broker(rabbitmq: Any) -> Iterator[None]:
    """The broker takes no message over ``BROKER_LIMIT`` bytes during the test."""
    rabbitmq.ensure_running()
    before = int(rabbitmq.ctl("eval", "rabbit_misc:get_env(rabbit, max_message_size, 134217728).").strip())
    # Each connection reads the limit from the one place or the other, depending on the release.
    put = "application:set_env(rabbit, max_message_size, {0}), persistent_term:put({{rabbit, max_message_size}}, {0})."
    rabbitmq.ctl("eval", put.format(BROKER_LIMIT))
    try:
        yield
    finally:
        rabbitmq.ctl("eval", put.format(before))


@only_sqlite
@pytest.mark.usefixtures("limited_broker")
@pytest.mark.parametrize("most_answer", [4 << 20, 128 << 20], ids=["limit-of-the-worker", "limit-of-the-broker"])
def test_60000_claims_and_one_list_claims(make_stage: MakeStage, most_answer: int) -> None:
    claims = 60_000
    stage = make_stage(bus={**CLASSIC, "max_answer_bytes": most_answer})
    with stage.callers() as callers, stage.served():
        began_at = time.monotonic()
        for number in range(claims):
            claim = {"instance": small(f"claim-{number}", "n1"), "timeout": 86400}
            callers.cast(HOST, "begin_resource_claim", claim)
            if number % 1000 == 999:
                assert callers.answer(HOST, "get_node", 60).failure is None
        assert callers.answer(HOST, "get_node", 60).result["running_vms"] == claims
        stage.note(f"{claims} claims in {time.monotonic() - began_at:.0f} s")
        listed = callers.answer(HOST, "list_claims", 60)
        later = callers.answer(HOST, "begin_resource_claim", 30, instance=small("later", "n1"))

    stage.note(f"list_claims in {listed.seconds} s")
    assert listed.failure == "AnswerTooLarge"
    assert listed.kwargs["limit"] <= min(most_answer, BROKER_LIMIT)
    assert later.failure is None
    stage.survived()


@only_sqlite
def test_40000_calls_of_a_dead_client(make_stage: MakeStage) -> None:
    calls = 40_000
    stage = make_stage(bus=CLASSIC)
    with raw.connect(stage.url) as connection, piled_up(stage):
        gone = {"_reply_q": f"reply_{uuid.uuid4().hex}"}
        for _ in range(calls):
            request = connection.request("get_node", {}, call=True, keys=gone)
            connection.publish(TOPIC, raw.packed(request), expiration="600000")
    began_at = time.monotonic()
    with stage.served():
        wait_quiet(stage, seconds=300)
        stage.note(f"{calls} calls in {time.monotonic() - began_at:.1f} s")
        # For so long an answer is kept for a client that comes back.
        time.sleep(max(0.0, began_at + 70 - time.monotonic()))
    stage.survived()


@only_sqlite
def test_1000_refused_logins(make_stage: MakeStage, broker_vhost: str, rabbitmq: Any) -> None:
    # Every address is the same broker: a round of attempts, after which the worker waits, has so many logins.
    account, _, place = broker_vhost.removeprefix("rabbit://").rpartition("@")
    addresses = ",".join([f"{account}@{place.partition('/')[0]}"] * 100)
    stage = make_stage(url=f"rabbit://{addresses}/{place.partition('/')[2]}", bus=CLASSIC)
    before = stage.worker.peak_memory()
    user, _, password = account.partition(":")
    rabbitmq.ctl("change_password", user, "another")
    try:
        rabbitmq.ctl("close_all_connections", "--vhost", place.partition("/")[2], "refused")
        wait_until(lambda: refused(stage) >= 1000, lambda: f"1000 refused logins; {refused(stage)}", seconds=300)
    finally:
        rabbitmq.ctl("change_password", user, password)
    began_at = time.monotonic()
    with stage.callers() as callers:
        wait_until(lambda: callers.answer(HOST, "get_node", 1).seconds is not None, "an answer", seconds=30)
    stage.note(f"answers {time.monotonic() - began_at:.1f} s after the account is good again")
    stage.note(f"{refused(stage)} refused logins cost {(stage.worker.peak_memory() - before) / (1 << 20):.1f} MiB")
    with stage.served():
        time.sleep(2 * SLOWEST_SECONDS)
    assert stage.worker.peak_memory() - before < 20 << 20
    stage.survived()


def refused(stage: Stage) -> int:
    return stage.worker.log().count("ACCESS_REFUSED")
