# SPDX-License-Identifier: Apache-2.0
"""The inner names of py-amqp that the bus uses: whether a new release has changed one, and that only the bus uses them."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

import amqp
import pytest
from amqp import serialization, transport

import tracker_worker
from tracker_worker.bus.amqp import internals

PACKAGE = Path(tracker_worker.__file__).parent
# These names are not in py-amqp's documentation, or they start with an underscore.
INNER = {
    "PROPERTY_CLASSES",
    "_on_inbound_frame",
    "_quick_recv",
    "_serialize_properties",
    "_write",
    "bytes_recv",
    "on_inbound_frame",
    "send_method",
    "serialization",
}


@pytest.mark.parametrize(("owner", "name"), internals.NAMES, ids=[name for _, name in internals.NAMES])
def test_py_amqp_has_each_inner_name(owner: Any, name: str) -> None:
    assert hasattr(owner, name)


@pytest.mark.parametrize("kind", [transport.TCPTransport, transport.SSLTransport])
def test_a_transport_of_py_amqp_sets_the_two_names_that_the_bus_replaces(kind: type) -> None:
    source = inspect.getsource(kind._setup_transport)  # type: ignore[attr-defined]
    assert "self._quick_recv =" in source
    assert "self._write =" in source or "_write" in vars(kind)


def test_py_amqp_has_the_minor_version_whose_source_was_read() -> None:
    assert importlib.metadata.version("amqp").startswith("5.4.")


def test_no_module_outside_of_the_bus_uses_an_inner_name() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.parent == PACKAGE / "bus/amqp":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = {node.attr} if isinstance(node, ast.Attribute) else set()
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "amqp":
                names = {alias.name for alias in node.names}
            # A class of this package may have a method ``_write``: only names on other objects count.
            own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            found += [f"{path.relative_to(PACKAGE)}: {name}" for name in names & INNER if not own]
    assert found == []


def test_the_tolerant_decoder_applies_to_one_connection_only() -> None:
    before = dict(serialization.PROPERTY_CLASSES)
    connection = amqp.Connection()
    connection.on_inbound_frame = seen = []  # type: ignore[var-annotated]
    connection.on_inbound_frame = lambda frame: seen.append(frame)
    internals.intercept_frames(connection)
    header = b"\x00\x3c\x00\x00" + bytes(8) + b"\x80\x00\x02\xff\xfe"  # a content type that is not UTF-8
    connection.on_inbound_frame((2, 1, header))
    ((kind, channel, payload),) = seen
    assert (kind, channel, payload[:12]) == (2, 1, header[:12])
    assert internals.decode_properties(payload, 12) == {"content_type": internals.UNREADABLE}
    assert before == serialization.PROPERTY_CLASSES
