# SPDX-License-Identifier: Apache-2.0
"""The static inventory file: YAML, checked as a whole before any part of it is used.

The file has either ``nodes`` for any host, or ``hosts`` with nodes for each host::

    nodes:
      cn1: {vcpus: 64, memory_mb: 262144, local_gb: 2000}

    hosts:
      h1: {nodes: {cn1: {vcpus: 64, memory_mb: 262144, local_gb: 2000}}}

A node has the keys that a driver returns (base.py); ``vcpus``, ``memory_mb`` and ``local_gb`` are required. ``resources``
declares custom classes, and says how the node hands out classes::

      cn1: {vcpus: 64, memory_mb: 262144, local_gb: 2000, resources: {VGPU: 4, VCPU: {allocation_ratio: 4}}}
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from tracker_worker.domain.classes import read_classes
from tracker_worker.domain.inventory import CLASSES_KEY
from tracker_worker.domain.resources import CLASSES, ZERO, Resources
from tracker_worker.errors import ConfigurationError, InvalidInput

#: The driver's answers by node name.
Nodes = Mapping[str, Mapping[str, Any]]

_Entry = TypeVar("_Entry")

_TOTALS = tuple(klass.total for klass in CLASSES)
_COUNTS = (*_TOTALS, "vcpus_used", "memory_mb_used", "local_gb_used", "hypervisor_version")
_TEXTS = ("cpu_info", "hypervisor_type", "hypervisor_hostname")
_INTEGERS = ("disk_available_least",)
_KEYS = (*_COUNTS, *_TEXTS, *_INTEGERS, CLASSES_KEY)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """The content of a file, complete with defaults. Drivers share the object and must not change it."""

    path: str
    #: The nodes of any host, or None when the file lists hosts.
    any_host: Nodes | None
    hosts: Mapping[str, Nodes]

    def nodes_of(self, host: str) -> Nodes:
        """The nodes of one host. Raises: ConfigurationError when the file lists hosts, but not this host."""
        if self.any_host is not None:
            return self.any_host
        if host not in self.hosts:
            raise ConfigurationError(f"The inventory file {self.path} does not list the host {host!r} under hosts.")
        return self.hosts[host]


def load(path: str) -> StaticFile:
    """The content of the file. The file is parsed again only after it has changed. Any thread may call this function.

    Raises: ConfigurationError when the file cannot be read or is wrong, with one sentence that names the file and the
    place in the file.
    """
    try:
        status = os.stat(path)
        # The change time and the inode also detect a replacement by a file of the same age and size.
        version = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        outcome = _parse_version(path, version)
    except OSError as error:
        raise ConfigurationError(
            f"The inventory file {path} (option static_file in the section [inventory]) cannot be read: "
            f"{error.strerror or error}."
        ) from error
    if isinstance(outcome, str):
        raise ConfigurationError(outcome)
    return outcome


@functools.lru_cache(maxsize=8)
def _parse_version(path: str, version: tuple[int, ...]) -> StaticFile | str:
    """The content, or a sentence about its fault. Both are values, so that a bad file is not parsed again for each host.

    If the file is replaced between stat and read, the new content is cached under the old version, which no later call
    asks for.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        return _checked(path, _parse_yaml(content))
    except _Problem as problem:
        # Names and values in the file may contain line ends; the operator gets one line.
        return " ".join(f"The inventory file {path} is wrong: {problem}.".split())


class _Problem(Exception):
    """A fault of the file, with its place and without the file's name."""


def _parse_yaml(content: bytes) -> Any:
    loader: Any = None
    try:
        # The steps of yaml.safe_load, because a key that occurs twice is visible in the YAML nodes but not in the result.
        loader = yaml.SafeLoader(content)
        root = loader.get_single_node()
        if root is None:
            raise _Problem("it is empty")
        _refuse_duplicate_keys(root, set())
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise _Problem(f"{place}{error.problem or error.context or 'it is not YAML'}") from error
    except (yaml.YAMLError, ValueError) as error:
        # A ValueError is a scalar that looks like a date or a number and is neither.
        raise _Problem(f"it is not YAML: {error}") from error
    except RecursionError as error:
        raise _Problem("it is nested too deeply") from error
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_duplicate_keys(node: yaml.Node, seen: set[int]) -> None:
    if id(node) in seen:  # an alias: the same node again
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicate_keys(item, seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[tuple[str, str]] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    mark = key.start_mark
                    raise _Problem(
                        f"line {mark.line + 1}, column {mark.column + 1}: the key {key.value!r} occurs twice"
                    )
                keys.add((key.tag, key.value))
            _refuse_duplicate_keys(value, seen)


def _checked(path: str, content: Any) -> StaticFile:
    _mapping(content, "its top level")
    _refuse_unknown(content, ("nodes", "hosts"), "at the top level")
    if "nodes" in content and "hosts" in content:
        raise _Problem("it has both nodes and hosts at the top level; only one of the two is allowed")
    if "nodes" in content:
        return StaticFile(path=path, any_host=_nodes(content["nodes"], "nodes"), hosts={})
    if "hosts" not in content:
        raise _Problem("it has neither nodes nor hosts at the top level")
    return StaticFile(path=path, any_host=None, hosts=_named(content["hosts"], "hosts", _host))


def _host(content: Any, place: str, name: str) -> Nodes:
    _mapping(content, place)
    _refuse_unknown(content, ("nodes",), f"at {place}")
    if "nodes" not in content:
        raise _Problem(f"{place}.nodes is missing")
    return _nodes(content["nodes"], f"{place}.nodes")


def _nodes(content: Any, place: str) -> Nodes:
    return _named(content, place, _node)


def _node(content: Any, place: str, name: str) -> Mapping[str, Any]:
    _mapping(content, place)
    _refuse_unknown(content, _KEYS, f"at {place}")
    missing = [key for key in _TOTALS if key not in content]
    if missing:
        raise _Problem(f"{place} does not have {', '.join(missing)}")
    for key, value in content.items():
        # A bool is an int in Python, but a mistake in this file.
        integer = isinstance(value, int) and not isinstance(value, bool)
        if key in _COUNTS and not (integer and value >= 0):
            raise _Problem(f"{place}.{key} must be an integer of 0 or more, not {value!r}")
        if key in _INTEGERS and not integer:
            raise _Problem(f"{place}.{key} must be an integer, not {value!r}")
        if key in _TEXTS and not isinstance(value, str):
            raise _Problem(f"{place}.{key} must be text, not {value!r}")
    _check_classes(content, place)
    return {
        "cpu_info": "",
        "vcpus_used": 0,
        "memory_mb_used": 0,
        "local_gb_used": 0,
        "hypervisor_type": "static",
        "hypervisor_version": 1,
        "hypervisor_hostname": name,
        "disk_available_least": content["local_gb"],
        **content,
    }


def _check_classes(content: Mapping[str, Any], place: str) -> None:
    totals = Resources.collect(lambda klass: content[klass.total])
    try:
        read_classes(f"{place}.{CLASSES_KEY}", content.get(CLASSES_KEY), totals=totals, reserved=ZERO)
    except InvalidInput as error:
        raise _Problem(f"{error.kwargs['field']} {error.kwargs['reason']}") from error


def _named(content: Any, place: str, check: Callable[[Any, str, str], _Entry]) -> dict[str, _Entry]:
    """A mapping of host names or node names that is not empty, with each entry checked."""
    if content is None or content == {}:
        raise _Problem(f"{place} is empty")
    _mapping(content, place)
    for name in content:
        if not isinstance(name, str) or not name:
            raise _Problem(f"the name {name!r} in {place} must be text that is not empty: write it in quotes")
    return {name: check(entry, f"{place}.{name}", name) for name, entry in content.items()}


def _mapping(content: Any, place: str) -> None:
    if not isinstance(content, dict):
        raise _Problem(f"{place} must be a mapping of keys to values, not {content!r:.60}")


def _refuse_unknown(content: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(str(key) for key in content if key not in known)
    if unknown:
        raise _Problem(f"unknown {', '.join(unknown)} {where}; known are {', '.join(known)}")
