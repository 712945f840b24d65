# SPDX-License-Identifier: Apache-2.0
"""The driver that reports the content of a YAML file: for machines that no driver can query, and for trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg

from tracker_worker.errors import ConfigurationError
from tracker_worker.inventory import base, static_file


class StaticDriver(base.InventoryDriver):
    """Reports the nodes that the file of ``[inventory] static_file`` lists for the host (format: static_file.py).

    Only the constructor and ``reload()`` read the file. The drivers of all hosts share one parsed copy.
    """

    def __init__(self, host: str, conf: cfg.ConfigOpts) -> None:
        """Raises: ConfigurationError when the option is not set, or the file is bad or does not list the host."""
        super().__init__(host, conf)
        self._conf = conf
        self._nodes = self._read()

    def get_available_nodes(self) -> Sequence[str]:
        """The host's nodes, in the order of the file."""
        return list(self._nodes)

    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        """The inventory of the node in the file, completed with the defaults; None for a node that the file does not list."""
        resource = self._nodes.get(nodename)
        return None if resource is None else dict(resource)

    def reload(self) -> None:
        """Read the file again. Raises: ConfigurationError as the constructor; the nodes then stay unchanged."""
        # One assignment: a call in another thread sees the old nodes or the new nodes, never a mixture.
        self._nodes = self._read()

    def _read(self) -> static_file.Nodes:
        path = self._conf.inventory.static_file
        if not path:
            raise ConfigurationError(
                "The static inventory driver needs a file: set the option static_file in the section [inventory]."
            )
        return static_file.load(path).nodes_of(self.host)
