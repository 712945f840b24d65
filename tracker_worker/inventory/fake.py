# SPDX-License-Identifier: Apache-2.0
"""A driver whose answers the caller sets: for tests and demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.inventory import base

#: How a node answers: with an inventory, with None (not supported), or with an exception.
Script = Mapping[str, Any] | None | Exception


@dataclass(frozen=True, slots=True)
class Hang:
    """A node that does not answer until it is released."""

    #: Set when a call waits; a test waits for this event instead of sleeping.
    entered: threads.Event = field(default_factory=threads.Event)
    released: threads.Event = field(default_factory=threads.Event)

    def release(self) -> None:
        """Let the waiting calls and all later calls go on."""
        self.released.set()


def fake_resource(
    *, vcpus: int = 16, memory_mb: int = 65536, local_gb: int = 1000, nodename: str = "fake"
) -> dict[str, Any]:
    """A complete and valid answer. The default sizes are those of a mid-sized machine."""
    return {
        "vcpus": vcpus,
        "vcpus_used": 0,
        "memory_mb": memory_mb,
        "memory_mb_used": 0,
        "local_gb": local_gb,
        "local_gb_used": 0,
        "cpu_info": "",
        "disk_available_least": local_gb,
        "hypervisor_type": "fake",
        "hypervisor_version": 1,
        "hypervisor_hostname": nodename,
    }


class FakeDriver(base.InventoryDriver):
    """Returns the answers in ``nodes`` unchanged. A test may change ``nodes`` at any time.

    Without ``nodes`` the host has one node with the host's name. All attributes may be changed while other threads call.
    """

    def __init__(
        self, host: str, conf: cfg.ConfigOpts | None = None, *, nodes: Mapping[str, Script] | None = None
    ) -> None:
        super().__init__(host, cfg.ConfigOpts() if conf is None else conf)
        self.nodes: dict[str, Script] = {host: fake_resource(nodename=host)} if nodes is None else dict(nodes)
        #: The exception that get_available_nodes() raises, if set.
        self.listing_error: Exception | None = None
        #: The exception that reload() raises, if set.
        self.reload_error: Exception | None = None
        #: The node of every call of get_available_resource(), in the order of the calls.
        self.calls: list[str] = []
        self.reloads = 0
        self._hangs: dict[str, Hang] = {}

    def hang(self, nodename: str) -> Hang:
        """Make calls for the node wait until the returned hang is released. Other nodes go on answering."""
        hang = self._hangs[nodename] = Hang()
        return hang

    def get_available_nodes(self) -> Sequence[str]:
        """The keys of ``nodes``. Raises: ``listing_error``, if set."""
        if self.listing_error is not None:
            raise self.listing_error
        return list(self.nodes)

    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        """The node's script, after its hang; None for an unknown node. Raises: the exception that the script is."""
        self.calls.append(nodename)
        hang = self._hangs.get(nodename)
        if hang is not None:
            hang.entered.set()
            hang.released.wait()
        # Read after the wait, so that a change made during the wait counts.
        script = self.nodes.get(nodename)
        if isinstance(script, Exception):
            raise script
        return None if script is None else dict(script)

    def reload(self) -> None:
        """Count the call. Raises: ``reload_error``, if set."""
        self.reloads += 1
        if self.reload_error is not None:
            raise self.reload_error
