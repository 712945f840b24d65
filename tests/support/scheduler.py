# SPDX-License-Identifier: Apache-2.0
"""The client API of a scheduler, on a transport that records its requests and answers from a script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oslo_config import cfg

from tests.support.builders import HOST, instance_dict, uuid

CONTEXT = {"project_id": "p", "user_id": "u", "request_id": "req-1"}
INSTANCE = instance_dict(1)
LIMITS = {"memory_mb": 5000.5, "disk_gb": None, "vcpu": 4}
CLAIM: Any = {"claim_id": uuid(1), "state": "begun"}


class BuildFailed(Exception):
    """What is done under a claim fails."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as the driver of a transport receives it."""

    kind: str
    method: str
    args: Mapping[str, Any]
    server: str | None = HOST
    topic: str = "tracker"
    version: str | None = "1.0"
    namespace: str | None = None
    fanout: bool | None = None
    context: Mapping[str, Any] = field(default_factory=lambda: dict(CONTEXT))


class ScriptedTransport:
    """Takes the place of a transport's driver: records requests and answers from a script of replies and errors."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.script: dict[tuple[str, str], Any] = {}

    def send(self, target: Any, ctxt: Any, message: Any, wait_for_reply: bool | None = None, **_: Any) -> Any:
        kind = "call" if wait_for_reply else "cast"
        about = target.server, target.topic, message.get("version"), message.get("namespace"), target.fanout
        self.sent.append(Sent(kind, message["method"], message["args"], *about, context=ctxt))
        answer = self.script.get((kind, message["method"]))
        if isinstance(answer, BaseException):
            raise answer
        return answer if kind == "call" else None

    @property
    def steps(self) -> list[str]:
        return [f"{sent.kind} {sent.method}" for sent in self.sent]


def scheduler_conf(path: Path, pin: str | None = None, **tracker: str) -> cfg.ConfigOpts:
    """The ConfigOpts of a scheduler, read from a file, without registered options; it is not cfg.CONF. ``pin`` is the newest
    version that its client may send."""
    lines = [] if pin is None else ["[upgrade_levels]", f"tracker = {pin}"]
    lines += ["[DEFAULT]", "transport_url = fake://", "rpc_response_timeout = 30", "[tracker]"]
    lines += [f"{name} = {value}" for name, value in tracker.items()]
    (path / "scheduler.conf").write_text("\n".join(lines), encoding="utf-8")
    conf = cfg.ConfigOpts()
    conf(["--config-file", str(path / "scheduler.conf")], project="scheduler", default_config_dirs=[])
    return conf
