# SPDX-License-Identifier: Apache-2.0
"""A reply goes to a queue of an RPC client; a call that wants it elsewhere is refused without an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from oslo_config import cfg

import tests.support.messaging  # noqa: F401 before oslo.messaging
from tests.wire.golden import load, names
from tracker_worker.bus.settings import read_settings
from tracker_worker.client.requester import Requester
from tracker_worker.conf import register_opts
from tracker_worker.errors import ConfigurationError
from tracker_worker.service.worker import Worker
from tracker_worker.wire.message import JSON, MSGPACK, Malformed
from tracker_worker.wire.reply import parking_reason
from tracker_worker.wire.reply_queues import ReplyQueues
from tracker_worker.wire.request import decode_request

CLIENTS = ReplyQueues.of_clients(
    ["reply_"], topic="tracker", dead_letter_queue="tracker.dead", notification_topics=["notifications", "billing"]
)
# An operator may name any queue so that it begins like a client's.
ALIKE = ReplyQueues.of_clients(
    ["reply_", ""], topic="reply_t", dead_letter_queue="reply_dead", notification_topics=["reply_n"]
)
FOREIGN = [
    "tracker",
    "tracker.host-1",
    "tracker.dead",
    "tracker_fanout_0123",
    "notifications.info",
    "billing.warn",
    "amq.gen-xyz",
    "amq.rabbitmq.reply-to.g1",
    "nova.compute",
    "Reply_1",
    "xreply_1",
]


def call(**ids: Any) -> dict[str, Any]:
    return {"method": "get_node", "args": {}, "_msg_id": "m1", "_reply_q": "reply_1", **ids}


def as_json(message: Any) -> tuple[bytes, str]:
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode(), JSON


def as_msgpack(message: Any) -> tuple[bytes, str]:
    return msgspec.msgpack.encode(message), MSGPACK


def too_large(message: Any) -> tuple[bytes, str]:
    return as_json({**message, "args": {"node": "n" * (1 << 20)}})


def nested(message: Any) -> tuple[bytes, str]:
    return json.dumps({**message, "args": None}).replace("null", "[" * 5000).encode(), JSON


FORMS = [as_json, as_msgpack, too_large, nested]


def refusal(body: bytes, content_type: str, allowed: ReplyQueues = CLIENTS) -> Malformed:
    with pytest.raises(Malformed) as caught:
        decode_request(body, content_type=content_type, reply_queues=allowed)
    return caught.value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("queue", FOREIGN)
def test_a_call_that_wants_its_reply_in_another_queue_is_refused_without_an_answer(
    queue: str, form: Callable[[Any], tuple[bytes, str]]
) -> None:
    error = refusal(*form(call(_reply_q=queue)))

    assert error.reply_to is None
    assert parking_reason(error).startswith("invalid_input: _reply_q: ")


@pytest.mark.parametrize(
    "queue",
    ["reply_t", "reply_t.host-1", "reply_t_fanout_1", "reply_dead", "reply_n", "reply_n.info", "reply_n.warn", "amq.x"],
)
def test_an_own_queue_is_refused_even_if_it_is_named_like_a_clients(queue: str) -> None:
    assert parking_reason(refusal(*as_json(call(_reply_q=queue)), allowed=ALIKE)).startswith(
        "invalid_input: _reply_q: "
    )


@pytest.mark.parametrize("queue", ["reply_1", "reply_host:worker:1", "reply_tx", "reply_nx"])
def test_other_queues_of_clients_are_allowed(queue: str) -> None:
    for allowed in (CLIENTS, ALIKE):
        request = decode_request(as_json(call(_reply_q=queue))[0], content_type=JSON, reply_queues=allowed)
        assert request.reply_to is not None
        assert request.reply_to.queue == queue


@pytest.mark.parametrize("name", [name for name in names() if name.startswith("call_")])
def test_the_reply_queue_of_every_recorded_stock_client_is_allowed(name: str) -> None:
    golden = load(name)
    request = decode_request(
        golden.body,
        content_type=golden.content_type,
        compression=golden.headers.get("compression"),
        reply_queues=CLIENTS,
    )
    assert request.reply_to is not None


@pytest.mark.parametrize("key", ["_msg_id", "_reply_q"])
@pytest.mark.parametrize(
    "value", ["", "x" * 256, "reply_" + "x" * 250, "reply_\n", "reply_é", "reply_\0", 5, ["reply_1"], {}]
)
def test_an_id_that_is_too_long_or_not_printable_is_named(key: str, value: Any) -> None:
    for form in (as_json, as_msgpack):
        error = refusal(*form(call(**{key: value})))
        assert error.reply_to is None
        assert parking_reason(error).startswith(f"invalid_input: {key}: ")


def test_a_call_without_a_reply_queue_is_refused_and_a_cast_needs_none() -> None:
    assert "_reply_q" in str(refusal(*as_json(call(_reply_q=None))))
    cast = decode_request(
        as_json(call(_msg_id=None, _reply_q="tracker.dead"))[0], content_type=JSON, reply_queues=CLIENTS
    )
    assert cast.reply_to is None


@pytest.fixture
def conf(tmp_path: Any) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("transport_url", "rabbit://127.0.0.1")
    conf.set_override("hosts", ["host-1"], group="tracker")
    conf.set_override("state_path", str(tmp_path), group="tracker")
    return conf


def test_the_pipelined_clients_queue_is_allowed_and_the_workers_own_queues_are_not(conf: cfg.ConfigOpts) -> None:
    allowed = Worker(conf)._reply_queues

    assert allowed.allows(Requester(read_settings(conf)).reply_queue)
    assert not any(map(allowed.allows, FOREIGN))


def test_a_worker_that_could_answer_nobody_does_not_start(conf: cfg.ConfigOpts) -> None:
    conf.set_override("reply_queue_prefixes", [], group="bus")

    with pytest.raises(ConfigurationError, match=r"\[bus\] reply_queue_prefixes"):
        Worker(conf)
