# SPDX-License-Identifier: Apache-2.0
"""Reads of drivers: on separate threads, never the same read twice at a time, and with a report to every audit that waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.builders import HOST, driver_resource_dict, node_name
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import RESERVED
from tests.support.startstop import stress
from tracker_worker.domain.commands import ReportList, ReportNode
from tracker_worker.errors import InvalidInput, NodeNotFound
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.service.chores import inventories as module
from tracker_worker.service.chores.inventories import Inventories, InventoryReport, Report

N1, N2 = node_name(1), node_name(2)


@dataclass
class Told:
    """What one reading has told, and its end."""

    host: str
    found: list[Report]
    errors: list[Exception]


class Case:
    def __init__(self) -> None:
        self.driver = FakeDriver(HOST, nodes={N1: driver_resource_dict(), N2: driver_resource_dict(vcpus=64)})
        self.other = FakeDriver("host-2", nodes={N1: driver_resource_dict()})
        self.now = 1000.0
        self.inventories = Inventories({HOST: self.driver, "host-2": self.other}, RESERVED, monotonic=lambda: self.now)
        self.reports: queue.SimpleQueue[Told] = queue.SimpleQueue()

    def audit(self, node: str | None = None, host: str = HOST) -> list[Report]:
        """Read the inventories; the list gets what is found."""
        found: list[Report] = []

        def done(report: InventoryReport) -> None:
            self.reports.put(Told(report.host, found, report.errors))

        self.inventories.read(host, node, done, lambda host, report: found.append(report))
        return found

    def report(self) -> Told:
        return self.reports.get(timeout=SECONDS)


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    case.inventories.start()
    yield case
    case.inventories.stop()


def found(told: Told) -> dict[str, int | None]:
    """Node -> the reported VCPUs, of the nodes whose driver has not failed."""
    return {
        report.node: None if report.inventory is None else report.inventory.total["VCPU"]
        for report in told.found
        if isinstance(report, ReportNode) and report.failure is None
    }


def failures(reports: list[Report]) -> dict[str | None, str]:
    """Node, or None for the list -> why it could not be read."""
    return {getattr(report, "node", None): report.failure for report in reports if report.failure is not None}


def listed(reports: list[Report]) -> list[set[str]]:
    return [set(report.nodes) for report in reports if isinstance(report, ReportList) and report.failure is None]


def test_a_report_has_every_node_and_the_reserve(case: Case) -> None:
    case.audit()
    report = case.report()
    assert (report.host, found(report), report.errors) == (HOST, {N1: 32, N2: 64}, [])
    nodes = [each for each in report.found if isinstance(each, ReportNode)]
    assert {each.inventory.reserved for each in nodes if each.inventory} == {RESERVED}
    assert listed(report.found) == [{N1, N2}]


def test_a_report_of_one_node_has_only_that_node(case: Case) -> None:
    case.audit(N2)
    assert found(case.report()) == {N2: 64}
    assert case.driver.calls == [N2]


def test_a_node_without_an_inventory_is_reported_as_disabled(case: Case) -> None:
    case.driver.nodes[N1] = None
    case.audit()
    assert found(case.report()) == {N1: None, N2: 64}


def test_a_host_without_nodes_has_an_empty_report(case: Case) -> None:
    case.driver.nodes.clear()
    case.audit()
    report = case.report()
    assert (found(report), listed(report.found), report.errors) == ({}, [set()], [])


def test_an_unknown_node_is_an_error_of_the_report(case: Case) -> None:
    case.audit("node-9")
    report = case.report()
    assert (found(report), listed(report.found)) == ({}, [{N1, N2}])
    assert [type(error) for error in report.errors] == [NodeNotFound]


def test_an_error_of_a_driver_is_in_the_report_with_the_inventories_of_other_nodes(case: Case) -> None:
    case.driver.nodes[N1] = OSError("gone")
    case.audit()
    report = case.report()
    assert found(report) == {N2: 64}
    assert [str(error) for error in report.errors] == ["gone"]
    assert failures(report.found) == {N1: "the driver failed: OSError: gone"}


def test_the_reason_of_a_failure_is_printable_and_short(case: Case) -> None:
    case.driver.nodes[N1] = OSError("\x1b[2J" + "x" * 10_000)
    case.audit(N1)
    (reason,) = failures(case.report().found).values()
    assert reason.startswith("the driver failed: OSError: \\x1b[2Jxxx")
    assert len(reason) == 255


def test_an_invalid_answer_of_a_driver_is_an_error_of_the_report(case: Case) -> None:
    case.driver.nodes[N1] = {"vcpus": 1}
    case.audit(N1)
    (error,) = case.report().errors
    assert isinstance(error, InvalidInput)
    for key in ("memory_mb", "local_gb", "cpu_info"):
        assert key in error.kwargs["field"]


def test_a_failed_listing_is_one_error_of_the_report(case: Case) -> None:
    case.driver.listing_error = OSError("gone")
    for node in (None, N1):
        case.audit(node)
        report = case.report()
        assert failures(report.found) == {None: "the driver failed: OSError: gone"}
        assert (len(report.found), [str(error) for error in report.errors]) == (1, ["gone"])
    case.driver.listing_error = None
    case.audit()
    assert found(case.report()) == {N1: 32, N2: 64}


def test_the_next_look_at_a_node_answers_all_audits_that_came_during_a_look(case: Case) -> None:
    hang = case.driver.hang(N1)
    case.audit(N1)
    assert hang.entered.wait(SECONDS)
    for node in (N1, None, N1):
        case.audit(node)
    wait_until(lambda: len(case.inventories._waiting[HOST, N1]) == 3, "all of them waiting")
    case.driver.nodes[N1] = driver_resource_dict(vcpus=1)
    hang.release()
    assert found(case.report()) == {N1: 1}
    assert sorted(len(found(case.report())) for _ in range(3)) == [1, 1, 2]
    assert case.driver.calls.count(N1) == 2
    wait_until(lambda: not case.inventories._waiting, "nothing left to ask")


def test_refreshes_during_a_look_are_one_further_look_with_one_command(case: Case) -> None:
    commands: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def note(host: str, report: Report) -> None:
        if isinstance(report, ReportNode):
            commands.put((host, report.node))

    hang = case.driver.hang(N1)
    case.inventories.refresh(HOST, N1, note)
    assert hang.entered.wait(SECONDS)
    for _ in range(100):
        case.inventories.refresh(HOST, N1, note)
        case.inventories.refresh(HOST, None, note)
    wait_until(lambda: case.driver.calls.count(N2) > 0, "the other node asked")
    wait_until(lambda: len(case.inventories._waiting[HOST, N1]) == 2, "both kinds waiting")
    hang.release()
    wait_until(lambda: not case.inventories._waiting, "nothing left to ask")
    assert case.driver.calls.count(N1) == 2
    told = [commands.get_nowait() for _ in range(commands.qsize())]
    assert told.count((HOST, N1)) == 3
    assert (HOST, N2) in told


def test_a_node_that_is_listed_twice_is_one_node(case: Case) -> None:
    case.driver.get_available_nodes = lambda: [N1, N1]  # type: ignore[method-assign, assignment, return-value]
    case.audit()
    assert found(case.report()) == {N1: 32}


@pytest.mark.parametrize("name", [None, 7, b"n1", "", "x" * 256, "a\nb", "a\x1b[2J", "a\x85", "a\0", "\ud800"])
def test_a_name_that_no_node_can_have_is_refused_and_the_other_nodes_are_read(
    case: Case, caplog: pytest.LogCaptureFixture, name: object
) -> None:
    case.driver.get_available_nodes = lambda: [name, N1]  # type: ignore[method-assign, assignment, list-item, return-value]
    for _ in range(2):
        case.audit()
        report = case.report()
        assert (found(report), listed(report.found), report.errors) == ({N1: 32}, [{N1}], [])
    (record,) = caplog.records  # once, although two audits have seen it
    assert record.levelname == "ERROR"
    assert record.getMessage().isprintable()


@pytest.mark.parametrize("name", ["x" * 255, "a b", "żółw", "n/1"])
def test_other_names_are_taken(case: Case, name: str) -> None:
    case.driver.nodes = {name: driver_resource_dict()}
    case.audit()
    assert found(case.report()) == {name: 32}


def test_a_look_that_hangs_counts_as_failed_once_until_it_is_answered(case: Case) -> None:
    hang = case.driver.hang(N1)
    reports = case.audit(N1)
    assert hang.entered.wait(SECONDS)
    case.inventories.note_hanging()
    case.now += module._PATIENCE_SECONDS - 1
    case.inventories.note_hanging()
    assert failures(reports) == {}
    case.now += 1
    for _ in range(2):
        case.inventories.note_hanging()
    assert [report.failure for report in reports if isinstance(report, ReportNode)] == [
        "the driver has not answered for 30 s"
    ]
    hang.release()
    assert found(case.report()) == {N1: 32}
    assert isinstance(reports[-1], ReportNode)
    assert reports[-1].failure is None


def test_a_list_of_nodes_that_hangs_counts_as_failed(case: Case) -> None:
    entered, released = threading.Event(), threading.Event()

    def hanging() -> list[str]:
        entered.set()
        released.wait(SECONDS)
        return [N1]

    case.driver.get_available_nodes = hanging  # type: ignore[method-assign]
    reports = case.audit()
    assert entered.wait(SECONDS)
    case.now += module._PATIENCE_SECONDS
    case.inventories.note_hanging()
    assert failures(reports) == {None: "the driver has not answered for 30 s"}
    released.set()
    assert listed(case.report().found) == [{N1}]


class Later:
    """Runs what was submitted one by one, on the thread of the test."""

    def __init__(self) -> None:
        self.functions: list[Callable[[], None]] = []

    def start(self) -> None: ...

    def submit(self, function: Callable[[], None]) -> None:
        self.functions.append(function)

    def stop(self) -> None: ...


def test_hosts_take_turns() -> None:
    many = FakeDriver(HOST, nodes={node_name(number): driver_resource_dict() for number in range(1, 201)})
    other = FakeDriver("host-2", nodes={N1: driver_resource_dict()})
    pool, reports = Later(), queue.SimpleQueue[str]()
    inventories = Inventories({HOST: many, "host-2": other}, RESERVED, pool=pool)
    for host in (HOST, "host-2"):
        inventories.read(host, None, lambda report: reports.put(report.host), lambda host, report: None)
    for _ in range(4):  # two lists, and one node of each host
        pool.functions.pop(0)()
    assert reports.get_nowait() == "host-2"
    while pool.functions:
        pool.functions.pop(0)()
    assert reports.get_nowait() == HOST


def test_a_node_that_hangs_delays_no_other_node_and_no_other_host(case: Case) -> None:
    hang = case.driver.hang(N1)
    case.audit()
    assert hang.entered.wait(SECONDS)
    for _ in range(3 * module._QUESTIONS):
        case.audit()
    case.audit(N2)
    case.audit(host="host-2")
    assert sorted(case.report().host for _ in range(2)) == [HOST, "host-2"]
    hang.release()
    for _ in range(1 + 3 * module._QUESTIONS):
        assert found(case.report()) == {N1: 32, N2: 64}


def test_a_listing_that_hangs_occupies_one_thread(case: Case) -> None:
    entered, released = threading.Event(), threading.Event()
    listings: list[None] = []
    real = case.driver.get_available_nodes

    def hanging() -> object:
        listings.append(None)
        entered.set()
        released.wait(SECONDS)
        return real()

    case.driver.get_available_nodes = hanging  # type: ignore[assignment]
    for node in [None, N1, N2, "node-9"] * module._QUESTIONS:
        case.audit(node)
    assert entered.wait(SECONDS)
    case.audit(host="host-2")
    assert case.report().host == "host-2"
    assert len(listings) == 1
    released.set()
    reports = [case.report() for _ in range(4 * module._QUESTIONS)]
    assert sorted(len(found(report)) for report in reports) == sorted([2, 1, 1, 0] * module._QUESTIONS)
    assert [len(report.errors) for report in reports].count(1) == module._QUESTIONS


def test_an_audit_requested_before_the_start_runs_after_it() -> None:
    case = Case()
    case.audit()
    case.inventories.start()
    assert found(case.report()) == {N1: 32, N2: 64}
    case.inventories.stop()


def test_a_driver_that_hangs_does_not_delay_the_stop(case: Case) -> None:
    hang = case.driver.hang(N1)
    case.audit()
    assert hang.entered.wait(SECONDS)
    case.inventories.stop()
    hang.release()


@pytest.mark.parametrize("asked", [False, True], ids=["idle", "asked"])
def test_start_and_stop_leave_no_thread_and_no_open_file(asked: bool) -> None:
    def make() -> Inventories:
        case = Case()
        if asked:
            case.audit()
        return case.inventories

    stress(make)
