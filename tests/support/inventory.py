# SPDX-License-Identifier: Apache-2.0
"""The common part of the inventory tests: a configuration object and the contract of every driver."""

from __future__ import annotations

import abc
from pathlib import Path

import pytest
from oslo_config import cfg

from tracker_worker.inventory.base import InventoryDriver

REQUIRED = {"vcpus", "memory_mb", "local_gb", "cpu_info", "vcpus_used", "memory_mb_used", "local_gb_used"}
OPTIONAL = {"hypervisor_type", "hypervisor_version", "hypervisor_hostname", "disk_available_least"}
TEXTS = {"cpu_info", "hypervisor_type", "hypervisor_hostname"}


def make_conf(*, state_path: Path | str = "/", static_file: Path | str | None = None) -> cfg.ConfigOpts:
    """A configuration with only the options that drivers read."""
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.StrOpt("state_path", default=str(state_path)), group="tracker")
    default = None if static_file is None else str(static_file)
    conf.register_opt(cfg.StrOpt("static_file", default=default), group="inventory")
    conf([], default_config_files=[], default_config_dirs=[])
    return conf


class DriverContract(abc.ABC):
    """One suite for every driver. A subclass provides a driver that serves the host ``h1``."""

    @pytest.fixture
    @abc.abstractmethod
    def driver(self, tmp_path: Path) -> InventoryDriver:
        """A driver with at least one node."""

    def test_a_host_has_nodes_and_each_is_named_once(self, driver: InventoryDriver) -> None:
        nodes = list(driver.get_available_nodes())
        assert nodes
        assert len(set(nodes)) == len(nodes)
        assert all(isinstance(node, str) and node for node in nodes)
        assert nodes == list(driver.get_available_nodes())

    @pytest.mark.behaviour("driver-answer")
    def test_every_node_has_every_required_key_with_the_right_type(self, driver: InventoryDriver) -> None:
        for node in driver.get_available_nodes():
            resource = driver.get_available_resource(node)
            assert resource is not None
            assert set(resource) == REQUIRED | OPTIONAL
            for key, value in resource.items():
                if key in TEXTS:
                    assert type(value) is str, key
                else:
                    # isinstance would accept a bool.
                    assert type(value) is int, key
                    assert value >= 0, key

    def test_an_unknown_node_is_not_supported(self, driver: InventoryDriver) -> None:
        assert not driver.get_available_resource("no-such-node")

    def test_an_answer_is_a_copy(self, driver: InventoryDriver) -> None:
        node = driver.get_available_nodes()[0]
        first = driver.get_available_resource(node)
        assert isinstance(first, dict)
        first["vcpus"] = -1
        second = driver.get_available_resource(node)
        assert second is not None
        assert second["vcpus"] >= 0

    def test_reload_without_a_change_changes_nothing(self, driver: InventoryDriver) -> None:
        nodes = list(driver.get_available_nodes())
        driver.reload()
        assert list(driver.get_available_nodes()) == nodes
