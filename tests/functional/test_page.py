# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, on a telephone's width and on a screen's, with names from outside that are no friends."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from tests.functional.conftest import HOST
from tests.support import stock
from tests.support.browser import chromium
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.health import LISTENING, fetch, port_of
from tests.support.worker_process import NODE, WorkerProcess

HOSTILE = "<img src=x onerror=document.title='owned'>"
LONG = "n" * 255
PICTURES = os.environ.get("TRACKER_PICTURES")
"""A directory that gets a picture of each page, for people to look at."""


@pytest.fixture(scope="module")
def worker(module_worker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker with an ordinary node, one with a long name, and one whose name is markup; two claims were refused."""
    directory = tmp_path_factory.mktemp("page")
    nodes = {"n1": NODE, LONG: NODE, HOSTILE: NODE}
    process = WorkerProcess(directory, transport_url=module_worker_url, hosts={HOST: nodes}, options=LISTENING)
    process.start()
    try:
        process.wait_ready()
        with stock.client(module_worker_url) as client:
            client.call(HOST, "begin_resource_claim", instance=instance_dict(1, node="n1"))
            client.call(HOST, "begin_resource_claim", instance=instance_dict(2, **sized(vcpus=60), node=HOSTILE))
            for context in ({"user_id": HOSTILE, "request_id": "req-1"}, {}):
                with pytest.raises(Exception, match="Insufficient"):
                    client.prepare(HOST).call(
                        context,
                        "begin_resource_claim",
                        instance=instance_dict(3, node=LONG),
                        limits={"memory_mb": 1},
                    )
        yield process
    finally:
        process.close()


def text(driver: WebDriver, selector: str) -> str:
    return str(driver.find_element(By.CSS_SELECTOR, selector).text)


def wait_for(driver: WebDriver, selector: str, wanted: str) -> None:
    wait_until(lambda: wanted in text(driver, selector), f"{wanted!r} in {selector}")


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_shows_the_worker_at_each_width(worker: WorkerProcess, tmp_path: Path, width: int) -> None:
    with chromium(tmp_path, width=width) as driver:
        driver.get(f"http://127.0.0.1:{port_of(worker)}/")
        wait_for(driver, "#ready", "ready")
        wait_for(driver, "#nodes", f"{HOST}/n1")
        assert "active" in text(driver, "#hosts")
        assert "topic notifications" in text(driver, "#backlog")
        decisions = text(driver, "#decisions")
        assert "MEMORY_MB 4096 requested, 512 used, limit 1" in decisions
        assert "req-1" in decisions
        # What looks like markup is text, and nothing of it is run or asked for.
        assert HOSTILE in text(driver, "#nodes")
        assert HOSTILE in decisions
        assert driver.title == "tracker-worker"
        assert driver.find_elements(By.TAG_NAME, "img") == []
        # No line is wider than the window, and the browser has nothing to complain about.
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert [entry["message"] for entry in driver.get_log("browser")] == []
        asked = driver.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
        assert {address.rpartition("/")[2] for address in asked} == {"status"}
        picture(driver, f"page-{width}")


def test_a_worker_that_is_dead_is_recognised_within_ten_seconds(
    module_worker_url: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("dead")
    process = WorkerProcess(directory, transport_url=module_worker_url, hosts={"h2": {"n1": NODE}}, options=LISTENING)
    process.start()
    try:
        process.wait_ready()
        with chromium(tmp_path, width=390) as driver:
            driver.get(f"http://127.0.0.1:{port_of(process)}/")
            wait_for(driver, "#nodes", "h2/n1")
            process.kill()
            began = time.monotonic()
            wait_for(driver, "#silent", "no answer since ")
            assert time.monotonic() - began < 10
            assert "h2/n1" in text(driver, "#nodes")  # the last state stays, behind the sentence
            picture(driver, "page-dead")
    finally:
        process.close()


def test_the_page_may_run_nothing_but_its_own_script(worker: WorkerProcess) -> None:
    answer = fetch(port_of(worker), "/")
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"http://" not in answer.body
    assert b"https://" not in answer.body


def test_the_page_changes_nothing(worker: WorkerProcess) -> None:
    for path in ("/", "/status", "/metrics", "/readyz", "/livez"):
        assert fetch(port_of(worker), path, "POST").status == http.client.METHOD_NOT_ALLOWED
        assert fetch(port_of(worker), path, "HEAD").body == b""


def picture(driver: WebDriver, name: str) -> None:
    if PICTURES:
        driver.save_screenshot(str(Path(PICTURES) / f"{name}.png"))
