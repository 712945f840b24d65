# SPDX-License-Identifier: Apache-2.0
"""Loading drivers by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from oslo_config import cfg
from stevedore import ExtensionManager

from tests.support.inventory import make_conf
from tracker_worker.errors import ConfigurationError
from tracker_worker.inventory.base import ENTRY_POINT_GROUP, load_driver
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.inventory.host import HostDriver
from tracker_worker.inventory.static import StaticDriver


class BadOptions(FakeDriver):
    def __init__(self, host: str, conf: cfg.ConfigOpts) -> None:
        raise ConfigurationError("Set the colour.")


class BadCode(FakeDriver):
    def __init__(self, host: str, conf: cfg.ConfigOpts) -> None:
        raise ZeroDivisionError


class NoDriver:
    pass


@pytest.fixture(autouse=True)
def announced(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The entry points that the test announces as those of installed packages, whether or not this package is installed."""
    drivers = {
        "fake": "tracker_worker.inventory.fake:FakeDriver",
        "host": "tracker_worker.inventory.host:HostDriver",
        "static": "tracker_worker.inventory.static:StaticDriver",
        "bad-options": f"{__name__}:BadOptions",
        "bad-code": f"{__name__}:BadCode",
        "no-driver": f"{__name__}:NoDriver",
        "no-class": f"{__name__}:make_conf",
        "no-module": "tracker_worker_no_such_module:Driver",
        "no-attribute": f"{__name__}:NoSuchDriver",
    }
    entry_points = [EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in drivers.items()]
    monkeypatch.setitem(ExtensionManager.ENTRY_POINT_CACHE, ENTRY_POINT_GROUP, entry_points)
    return entry_points


def test_each_name_gives_its_driver_for_the_host(tmp_path: Path) -> None:
    file = tmp_path / "static.yaml"
    file.write_text("nodes: {n1: {vcpus: 1, memory_mb: 1, local_gb: 1}}")
    conf = make_conf(static_file=file)

    for name, driver_class in (("fake", FakeDriver), ("host", HostDriver), ("static", StaticDriver)):
        driver = load_driver(name, "h1", conf)
        assert type(driver) is driver_class
        assert driver.host == "h1"


def test_an_unknown_name_is_refused_with_the_available_names(announced: list[EntryPoint]) -> None:
    del announced[3:]
    with pytest.raises(ConfigurationError) as caught:
        load_driver("hots", "h1", make_conf())
    assert str(caught.value) == "There is no inventory driver 'hots'; available: fake, host, static."


def test_an_unknown_name_is_refused_if_no_driver_is_installed(announced: list[EntryPoint]) -> None:
    announced.clear()
    with pytest.raises(ConfigurationError, match=r"'host'; available: none\.$"):
        load_driver("host", "h1", make_conf())


@pytest.mark.parametrize("name", ["no-module", "no-attribute"])
def test_a_driver_that_cannot_be_imported_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^The inventory driver '{name}' cannot be loaded: .*(No|no) .*$"):
        load_driver(name, "h1", make_conf())


@pytest.mark.parametrize("name", ["no-driver", "no-class"])
def test_an_entry_point_that_is_not_a_driver_class_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' is not a subclass of InventoryDriver"):
        load_driver(name, "h1", make_conf())


def test_a_name_that_two_packages_announce_is_refused(announced: list[EntryPoint]) -> None:
    announced.append(EntryPoint("fake", f"{__name__}:BadCode", ENTRY_POINT_GROUP))
    with pytest.raises(ConfigurationError, match=r"More than one .* 'fake': .*:BadCode, .*fake:FakeDriver\.$"):
        load_driver("fake", "h1", make_conf())


def test_a_configuration_error_of_a_constructor_is_raised_unchanged() -> None:
    with pytest.raises(ConfigurationError, match=r"^Set the colour\.$"):
        load_driver("bad-options", "h1", make_conf())


def test_another_error_of_a_constructor_is_raised_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        load_driver("bad-code", "h1", make_conf())
