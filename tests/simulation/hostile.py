# SPDX-License-Identifier: Apache-2.0
"""A client that sends what no client should, and expects an error for each call and a dead letter for each cast.

Its calls have no deadline, so that every one of them must be answered, whatever else goes wrong.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgpack

from tests.simulation.broker import DEAD_LETTERS, MOST_TRAVEL_SECONDS, Broker, Message
from tests.simulation.stage import Stage
from tests.support.builders import instance_dict
from tracker_worker.bus.base import SHARED
from tracker_worker.store.base import Store
from tracker_worker.wire.message import JSON, MSGPACK, decode_message, in_envelope

ERROR, ANSWER, PARKED, NOTHING = "an error", "an answer", "a dead letter", "nothing"
_QUEUE = "reply_hostile"
_AGAIN_SECONDS = 0.2
_MOST_LETTERS = 10_000
_BIG_BYTES = 1_200_000
_LARGE = 0.02
"""The part of the messages that are large."""


@dataclass(frozen=True, slots=True)
class Sent:
    """``expects``: what must become of it. ``msg_id`` None: it has none that can be read."""

    what: str
    body: bytes
    expects: str
    msg_id: str | None = None
    content_type: str = JSON
    headers: Mapping[str, Any] = field(default_factory=dict)


class Hostile:
    """Sends ``rate`` messages a second until ``stop``. ``bodies``: what it has sent. ``wrong``: what should not have become of
    it."""

    def __init__(self, stage: Stage, broker: Broker, random: Random, *, hosts: list[str], rate: float) -> None:
        self.bodies: set[bytes] = set()
        self._stage = stage
        self._broker = broker
        self._random = random
        self._hosts = hosts
        self._rate = rate
        self._sent: list[Sent] = []
        self._replies: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._stopped = False
        broker.replies[_QUEUE] = self._receive

    def start(self) -> None:
        self._stage.later(self._random.expovariate(self._rate), self._act)

    def stop(self) -> None:
        self._stopped = True

    def wrong(self, store: Store, *, went_back: bool) -> list[str]:
        """To be asked when everything is quiet. ``store`` has the dead letters that the broker does not take; if it
        ``went_back``, some may be lost."""
        parked = {row.body: row.reason for _, row in store.dead_letters(_MOST_LETTERS)}
        parked |= {message.body: message.headers.get("x-tracker-reason") for message in self._broker.parked}
        lost = {stored.body for stored in self._broker.lost}
        if went_back:
            lost |= {body for key, body in self._broker.untaken if key == DEAD_LETTERS}
        found = []
        for sent in self._sent:
            if sent.body in lost:
                continue
            replies = self._replies.get(sent.msg_id or "", [])
            became = {
                ERROR: bool(replies) and all(reply["failure"] for reply in replies) and sent.body not in parked,
                ANSWER: bool(replies) and sent.body not in parked,
                PARKED: bool(parked.get(sent.body)) and not replies,
                NOTHING: sent.body not in parked and not replies,
            }
            if sent.expects in (ERROR, ANSWER) and not replies and self._broker.unheard[_QUEUE] > 0:
                self._broker.unheard[_QUEUE] -= 1
            elif not became[sent.expects]:
                told = f"{len(replies)} answers {[reply['failure'] or reply['result'] for reply in replies]}"
                found.append(
                    f"hostile: {sent.what} should have become {sent.expects}; {told}; parked: {parked.get(sent.body)}"
                )
        return found

    def _act(self) -> None:
        if self._stopped:
            return
        kinds = _LARGE_KINDS if self._random.random() < _LARGE else _KINDS
        sent = self._random.choice(kinds)(_Draw(self._random, self._stage.random.randbytes(16).hex()))
        queue = self._random.choice((*self._hosts, SHARED))
        self._sent.append(sent)
        self.bodies.add(sent.body)
        self._stage.later(self._random.random() * MOST_TRAVEL_SECONDS, lambda: self._arrive(queue, sent))
        self.start()

    def _arrive(self, queue: str, sent: Sent) -> None:
        broker = self._broker
        if broker.blocked:
            broker.waiting.append(lambda: self._arrive(queue, sent))
            return
        message = Message(body=sent.body, content_type=sent.content_type, headers=sent.headers)
        if not (broker.up and broker.publish(queue, message)):
            self._stage.later(_AGAIN_SECONDS, lambda: self._arrive(queue, sent))

    def _receive(self, body: bytes) -> None:
        reply = decode_message(body)
        if reply["ending"]:
            self._replies[reply["_msg_id"]].append(reply)


class _Draw:
    """What one message is made of. ``id`` is one that no other message has."""

    def __init__(self, random: Random, id: str) -> None:
        self.random = random
        self.id = id

    def message(self, *, call: bool | None = None, **keys: Any) -> dict[str, Any]:
        """A request that would be harmless, with other ``keys``; None: without the key."""
        message = {
            "method": "get_usage",
            "args": {},
            "version": "1.1",
            "_unique_id": self.id,
            "_context_user_id": "u",
            **keys,
        }
        if self.random.random() < 0.5 if call is None else call:
            message = {"_msg_id": self.id, "_reply_q": _QUEUE, "_timeout": None, **message}
        return {name: value for name, value in message.items() if value is not None}

    def sent(self, what: str, message: Mapping[str, Any], call: str = ERROR, cast: str = PARKED) -> Sent:
        """The message in an envelope; ``call`` and ``cast`` say what is expected of each."""
        is_call = "_msg_id" in message
        body = in_envelope(json.dumps(message).encode())
        return Sent(what, body, call if is_call else cast, self.id if is_call else None)

    def weird(self) -> Any:
        """A value that nothing takes."""
        return self.random.choice(_WEIRD)


_WEIRD: tuple[Any, ...] = (
    *(-1, 1.5, 10**400, float("nan"), float("inf"), -(2**63), 2**64, True),
    *("", "much", "x" * 300, "two\nlines", "\x00", "\ud800", "1e9"),
    *([], [[]], {}, {"": None}, [None] * 50),
)


def _no_json(draw: _Draw) -> Sent:
    garbage = draw.random.choice(
        (b"", b"{", b"[1,", b"nul", b'{"oslo.message":', b"\xff\xfe\x00", b"<x/>", b'"\\ud800"')
    )
    return Sent("no JSON", garbage + b" " + draw.id.encode(), PARKED)


def _no_object(draw: _Draw) -> Sent:
    value: Any = draw.random.choice(([], [{}], 1, "text", True, [draw.id] * 3))
    return Sent("no object", json.dumps([value, draw.id]).encode(), PARKED)


def _broken_envelope(draw: _Draw) -> Sent:
    inside: Any = draw.random.choice(("", "{", "[]", "1", json.dumps(draw.message())[:-20], 7, None, {"method": 1}, []))
    return Sent(
        "broken envelope", json.dumps({"oslo.version": "2.0", "oslo.message": inside, "x": draw.id}).encode(), PARKED
    )


def _deep(draw: _Draw) -> Sent:
    levels = draw.random.choice((150, 3000))
    nested = "[" * levels + "]" * levels
    text = json.dumps(draw.message(call=False, args={"project_id": "@"})).replace('"@"', nested)
    return Sent(f"{levels} levels", in_envelope(text.encode()), PARKED)


def _no_text(draw: _Draw) -> Sent:
    """A key of the request is not what it should be."""
    name, values = draw.random.choice(
        (
            ("method", (None, 7, [], {}, "", "no_such_method", "__init__", "get_usage\n", "x" * 5000)),
            ("args", (7, "text", [1], True)),
            ("version", ("9.9", "1.99", "x", "", 2, "1", "1.1.1", "1" * 5000, [])),
            ("namespace", ("other", 7)),
            ("_unique_id", (7, "", "x" * 300, [], "two\nlines", "\u00e9")),
        )
    )
    value: Any = draw.random.choice(values)
    keys: dict[str, Any] = {name: value}
    message = draw.message(**keys)
    return draw.sent(f"{name} {str(value)[:20]!r}", message)


def _arguments(draw: _Draw) -> Sent:
    """Arguments are missing, unknown, or of another type."""
    name = f"hostile-{draw.id}"
    sizes: Any = draw.random.choice((-1, "2", 1.5, 10**400))
    classes: Any = draw.random.choice((7, [1], {"vgpu": 1}, {"VCPU": 1}, {"VGPU": sizes}, {"X" * 300: 1}))
    method, args = draw.random.choice(
        (
            ("begin_resource_claim", {}),
            ("begin_resource_claim", {"instance": draw.random.choice((None, 7, [], "text", {}))}),
            ("begin_resource_claim", {"instance": {**instance_dict(uuid=name), "vcpus": sizes}}),
            ("begin_resource_claim", {"instance": instance_dict(uuid=name, node="no-such-node")}),
            ("begin_resource_claim", {"instance": instance_dict(uuid=name), "limits": {"vcpu": "many"}}),
            ("begin_resource_claim", {"instance": instance_dict(uuid=name), "limits": {"vcpu": 1, "VCPU": 1}}),
            ("begin_resource_claim", {"instance": instance_dict(uuid=name, resources=classes)}),
            ("adopt", {"instances": draw.random.choice((None, {}, [7], [{}], [{"uuid": 7}], [{"uuid": name}] * 1001))}),
            ("begin_resource_claim", {"instance": instance_dict(uuid=name), "timeout": -1}),
            ("begin_resource_claim", {"instance": instance_dict(uuid=name), "on_expiry": "explode"}),
            ("begin_resource_claim", {"instance": instance_dict(uuid=name), "surprise": 1}),
            ("begin_resource_claims", {"claims": draw.random.choice((None, [], [7], [{}], {}, [{"instance": {}}] * 501))}),
            ("update_usage", {"instance": {"uuid": draw.random.choice((None, "", 7, [], "x" * 300, "\x00"))}}),
            ("update_usage", {"instance": {"uuid": name, "vm_state": draw.random.choice(("flying", 7, []))}}),
            ("update_usage", {"instance": {"uuid": name, "metadata": {"k": "x" * 70_000}}}),
            ("finish_resource_claim", {"claim_id": draw.random.choice((None, "", 7, [], {}, "x" * 300))}),
            ("release_allocation", {"instance_uuid": name, "reason": ""}),
            ("report_instances", {"uuids": draw.random.choice((None, 7, [7], [[]], "text")), "node": "n1"}),
            ("renew_resource_claim", {"claim_id": name, "timeout": draw.random.choice(("x", -1, []))}),
            ("list_allocations", {"limit": draw.random.choice((0, -1, "x", 10**9))}),
            ("get_instances", {"node": "n1", "after": draw.random.choice((7, "", [], "x" * 300))}),
            ("get_instances", {"node": "n1", "limit": draw.random.choice((0, -1, "x", 501))}),
            ("get_notifications", {"node": "n1", "limit": draw.random.choice((0, -1, "x", 501))}),
            ("get_node", {"node": draw.random.choice((7, [], "", "no-such-node"))}),
            ("get_node", {"host": "another-host"}),
            ("get_node", {"host": draw.random.choice((7, "", [], "x" * 300))}),
            ("get_usage", {"surprise": None}),
            ("get_usage", {"project_id": draw.random.choice((7, [], {}))}),
        )
    )  # fmt: skip
    return draw.sent(f"{method} of {str(args)[:100]}", draw.message(method=method, args=args))


def _weird_sizes(draw: _Draw) -> Sent:
    """A question with any value anywhere: whatever the answer is, there is one."""
    instance = instance_dict(uuid=f"hostile-{draw.id}", node="n1")
    instance[draw.random.choice(list(instance))] = draw.weird()
    limits = draw.random.choice((None, {"vcpu": draw.weird()}, draw.weird()))
    args = {"instance": instance, "limits": limits}
    return draw.sent(f"would_fit of {str(args)[-60:]}", draw.message(call=True, method="would_fit", args=args), ANSWER)


def _context(draw: _Draw) -> Sent:
    keys = {f"_context_{name}": draw.weird() for name in ("request_id", "project_id", "user_id", "roles", "x" * 200)}
    message = draw.message(call=True, method="oslo_rpc_server_ping", **keys)
    return draw.sent(f"context {str(keys)[:60]}", message, ANSWER)


def _without_id(draw: _Draw) -> Sent:
    message = draw.message(call=True, method="list_nodes", _unique_id=None)
    return draw.sent("a call without _unique_id", message, ANSWER)


def _reply_queue(draw: _Draw) -> Sent:
    """A call that cannot be answered: it wants its reply in a queue of ours, in one that does not exist, or nowhere."""
    queue = draw.random.choice(
        (f"reply_gone_{draw.id}", "tracker.h1", "tracker", "notifications.info", "tracker.dead", "", 7, None)
    )
    expects = NOTHING if isinstance(queue, str) and queue.startswith("reply_") else PARKED
    message = {**draw.message(call=False), "_msg_id": draw.id, "_reply_q": queue}
    return Sent(f"reply in {queue!r}", in_envelope(json.dumps(message).encode()), expects)


def _msg_id(draw: _Draw) -> Sent:
    value: Any = draw.random.choice((7, [], {}, "", "x" * 300, "\n"))
    message = {**draw.message(call=False), "_msg_id": value, "_reply_q": _QUEUE}
    return Sent(f"_msg_id {str(value)[:20]!r}", in_envelope(json.dumps(message).encode()), PARKED)


def _monitored(draw: _Draw) -> Sent:
    message = draw.message(call=True, _timeout=draw.random.choice((-1, 0, 1, 2, 10**30, 1.5, "5", [], True)))
    return draw.sent(f"_timeout {message['_timeout']}", message, ANSWER)


def _packed(draw: _Draw) -> Sent:
    packed = msgpack.packb({**draw.message(call=False), "args": {7: 8}})
    cut = packed[: draw.random.randrange(1, len(packed))]
    return Sent("msgpack", draw.random.choice((packed, cut)) + b"\xc1" + draw.id.encode(), PARKED, content_type=MSGPACK)


def _other_type(draw: _Draw) -> Sent:
    body = in_envelope(json.dumps(draw.message(call=False)).encode())
    content_type = draw.random.choice(("text/plain", "application/x-python-serialize", "x" * 200))
    return Sent(f"content type {content_type[:20]}", body, PARKED, content_type=content_type)


def _compressed(draw: _Draw) -> Sent:
    body = in_envelope(json.dumps(draw.message(call=False)).encode())
    compression = draw.random.choice(("application/x-gzip", "application/x-bz2", "x" * 200, 7, ["application/x-gzip"]))
    return Sent(f"compression {str(compression)[:20]}", body, PARKED, headers={"compression": compression})


def _large(draw: _Draw) -> Sent:
    return draw.sent("a large body", draw.message(args={"project_id": "x" * _BIG_BYTES}))


def _many(draw: _Draw) -> Sent:
    return draw.sent("many values", draw.message(args={"project_id": [0] * 260_000}))


_KINDS: tuple[Callable[[_Draw], Sent], ...] = (
    *(
        _no_json,
        _no_object,
        _broken_envelope,
        _deep,
        _no_text,
        _no_text,
        _arguments,
        _arguments,
        _arguments,
        _weird_sizes,
    ),
    *(_context, _without_id, _reply_queue, _msg_id, _monitored, _packed, _other_type, _compressed),
)
_LARGE_KINDS: tuple[Callable[[_Draw], Sent], ...] = (_large, _many)
