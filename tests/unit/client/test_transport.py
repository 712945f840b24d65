# SPDX-License-Identifier: Apache-2.0
"""What both transports share: the version of a request, and the errors in replies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import HOST
from tests.support.scheduler import CONTEXT, scheduler_conf
from tests.support.stock import oslo_messaging
from tests.unit.client.test_api import CALLS, CASTS, NEW
from tracker_worker import errors
from tracker_worker.bus.settings import read_connection
from tracker_worker.client.pipelined import PipelinedTransport
from tracker_worker.client.transport import remote_error, version_of
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion
from tracker_worker.wire.reply import failure_of


@pytest.mark.parametrize("cap", [None, "1.1", "1.2", "1.10"])
def test_a_request_has_the_version_that_it_needs(cap: str | None) -> None:
    assert version_of("get_node", {"node": None}, cap) == "1.0"
    assert version_of("would_fit", {}, cap) == "1.1"
    assert version_of("begin_resource_claim", {"instance": {}, "limits": None}, cap) == "1.0"
    assert version_of("begin_resource_claim", {"instance": {}, "claim_id": "c"}, cap) == "1.1"


def test_a_request_above_the_pin_is_not_sent() -> None:
    assert version_of("get_node", {}, "1.0") == "1.0"
    with pytest.raises(oslo_messaging.RPCVersionCapError, match=r"1\.1 is incompatible"):
        version_of("would_fit", {}, "1.0")


@pytest.mark.parametrize("method", sorted(NEW))
def test_a_pinned_pipeline_refuses_what_its_version_does_not_have(tmp_path: Path, method: str) -> None:
    conf = scheduler_conf(tmp_path)
    register_client_opts(conf)
    conf.set_override("transport_url", "rabbit://guest:guest@127.0.0.1:1/")
    pipeline = PipelinedTransport(read_connection(conf), 1, version_cap="1.0")
    args = CALLS[method][1]
    with pytest.raises(oslo_messaging.RPCVersionCapError):
        pipeline.send_many(CONTEXT, HOST, method, [args])
    if method in CASTS:
        with pytest.raises(oslo_messaging.RPCVersionCapError):
            pipeline.cast(CONTEXT, HOST, method, args)


@pytest.mark.parametrize(
    "error",
    [
        errors.NodeDraining(host=HOST, node="node-1", reason="new disks"),
        NoSuchMethod("would_fit"),
        UnsupportedVersion("1.1", "would_fit"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_rebuilt_as_its_class(error: Exception) -> None:
    rebuilt = remote_error(json.dumps(failure_of(error)))
    assert type(rebuilt) is type(error)
    assert str(rebuilt) == str(error)
    assert vars(rebuilt) == vars(error)


@pytest.mark.parametrize(
    ("module", "kind"),
    [("builtins", "RuntimeError"), ("builtins", "UnsupportedVersion"), ("tracker_worker.errors", "ConfigurationError")],
)
def test_an_error_of_another_class_is_a_remote_error(module: str, kind: str) -> None:
    failure: dict[str, Any] = {"class": kind, "module": module, "message": "m", "tb": [], "args": [], "kwargs": {}}
    rebuilt = remote_error(json.dumps(failure))
    assert isinstance(rebuilt, oslo_messaging.RemoteError)
    assert rebuilt.exc_type == kind
