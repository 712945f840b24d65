# SPDX-License-Identifier: Apache-2.0
"""An import of the package changes no process-wide state of another library and gives no warning."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# This is the process-wide state of libraries that an import of this package has changed in the past, or could change.
_SNAPSHOT = """
import json, logging, signal, socket, sys, threading, warnings
import amqp, kombu, oslo_messaging
from amqp import serialization, spec

def snapshot():
    return {
        "decoder": repr(serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID]),
        "connection": repr(sorted((k, repr(v)) for k, v in vars(amqp.Connection).items())),
        "channel": repr(sorted((k, repr(v)) for k, v in vars(amqp.Channel).items())),
        "message": repr(sorted((k, repr(v)) for k, v in vars(amqp.Message).items())),
        "filters": repr(warnings.filters),
        "handlers": repr(logging.getLogger().handlers),
        "signals": repr([signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]),
        "threads": repr(sorted(t.name for t in threading.enumerate())),
        "socket": repr((socket.socket, socket.getdefaulttimeout())),
    }

before = snapshot()
import tracker_worker.client
from tracker_worker import ResourceTracker, TrackerAPI, TrackerClient, errors
from tracker_worker.client import TrackerAPI, TrackerClient
from tracker_worker.tracker import ResourceTracker
from tracker_worker.rpcapi import TrackerAPI
after = snapshot()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""


def test_an_import_of_the_clients_changes_no_other_library() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SNAPSHOT], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", ["TrackerAPI", "TrackerClient", "ResourceTracker", "errors"])
def test_each_public_name_is_imported_without_a_warning(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from tracker_worker import {name}; print({name}.__name__)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip().endswith(name)
    assert done.stderr == ""


def test_an_unknown_name_is_an_attribute_error() -> None:
    import tracker_worker
    import tracker_worker.client

    for package in (tracker_worker, tracker_worker.client):
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            package.nonsense  # noqa: B018
