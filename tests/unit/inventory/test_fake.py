# SPDX-License-Identifier: Apache-2.0
"""The driver whose answers a test sets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.inventory import DriverContract, make_conf
from tracker_worker.errors import ConfigurationError
from tracker_worker.inventory.base import InventoryDriver
from tracker_worker.inventory.fake import FakeDriver, fake_resource


class TestContract(DriverContract):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> InventoryDriver:
        return FakeDriver("h1", make_conf())


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield pool


def test_without_nodes_the_driver_has_one_node_named_as_the_host() -> None:
    assert FakeDriver("h1").get_available_nodes() == ["h1"]


def test_the_driver_returns_its_given_answer_even_if_it_is_incomplete() -> None:
    driver = FakeDriver(host="h1", nodes={"n1": {"vcpus": 4}})
    assert driver.get_available_resource("n1") == {"vcpus": 4}


def test_nodes_may_change_at_any_time() -> None:
    driver = FakeDriver(host="h1", nodes={})
    assert driver.get_available_nodes() == []
    driver.nodes["n1"] = fake_resource(vcpus=2, memory_mb=3, local_gb=4)
    resource = driver.get_available_resource("n1")
    assert resource is not None
    assert (resource["vcpus"], resource["memory_mb"], resource["local_gb"]) == (2, 3, 4)
    del driver.nodes["n1"]
    assert driver.get_available_nodes() == []


def test_an_answer_may_be_none_or_an_exception() -> None:
    driver = FakeDriver(host="h1", nodes={"silent": None, "broken": OSError("gone")})
    assert driver.get_available_resource("silent") is None
    with pytest.raises(OSError, match="gone"):
        driver.get_available_resource("broken")
    assert driver.calls == ["silent", "broken"]


def test_listing_and_reload_can_raise() -> None:
    driver = FakeDriver(host="h1")
    driver.listing_error = OSError("gone")
    driver.reload_error = ConfigurationError("bad")
    with pytest.raises(OSError, match="gone"):
        driver.get_available_nodes()
    with pytest.raises(ConfigurationError, match="bad"):
        driver.reload()
    assert driver.reloads == 1


def test_a_hang_blocks_one_node_until_its_release(pool: ThreadPoolExecutor) -> None:
    driver = FakeDriver(host="h1", nodes={"slow": {"vcpus": 1}, "quick": {"vcpus": 2}})
    hang = driver.hang("slow")
    waiting = pool.submit(driver.get_available_resource, "slow")
    try:
        assert hang.entered.wait(10)
        assert driver.get_available_resource("quick") == {"vcpus": 2}
        assert not waiting.done()
        driver.nodes["slow"] = {"vcpus": 3}
    finally:
        hang.release()
    assert waiting.result(10) == {"vcpus": 3}
    assert driver.get_available_resource("slow") == {"vcpus": 3}


def test_a_node_can_hang_again(pool: ThreadPoolExecutor) -> None:
    driver = FakeDriver(host="h1")
    driver.hang("h1").release()
    assert driver.get_available_resource("h1")
    again = driver.hang("h1")
    waiting = pool.submit(driver.get_available_resource, "h1")
    try:
        assert again.entered.wait(10)
        assert not waiting.done()
    finally:
        again.release()
    assert waiting.result(10)
