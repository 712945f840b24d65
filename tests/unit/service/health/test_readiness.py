# SPDX-License-Identifier: Apache-2.0
"""The document of /readyz, from figures that a test sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tracker_worker.bus.base import FANOUT, SHARED, Blocked, Contact
from tracker_worker.service.health.figures import Figures
from tracker_worker.service.health.problems import CODES, names
from tracker_worker.service.health.readiness import Readiness, in_short

HOSTS = ("h1", "h2")
CONTACT = {
    "brokers": ("b1:5672", "b2:5672"),
    "consuming": True,
    "publishing": True,
    "consumed": frozenset({"h1", "h2", SHARED, FANOUT}),
}
GOOD = Figures(
    ledger_id="ledger",
    served=frozenset(HOSTS),
    active=frozenset({"h1"}),
    held=frozenset({"h1"}),
    contact=Contact(**CONTACT),  # type: ignore[arg-type]
)


class Case:
    """A document of figures that are good but for what a test changes. ``now`` is in seconds."""

    def __init__(self) -> None:
        self.now = 100.0
        self.figures = GOOD
        self.readiness = Readiness(
            hosts=HOSTS,
            figures=lambda: self.figures,
            turn_seconds=10,
            version="1.2",
            pid=42,
            monotonic=lambda: self.now,
            microseconds=lambda: 1_700_000_000_000_000 + int(self.now * 1_000_000),
        )

    def change(self, *, contact: dict[str, Any] | None = None, **changes: Any) -> None:
        if contact is not None:
            changes["contact"] = Contact(**{**CONTACT, **contact})
        self.figures = replace(self.figures, **changes)

    def problems(self) -> dict[str, str]:
        document = self.readiness.document()
        assert document["ready"] == (not document["problems"])
        found = {problem["code"]: problem["message"] for problem in document["problems"]}
        assert len(found) == len(document["problems"])
        assert [code for code in CODES if code in found] == list(found)
        return found


@pytest.fixture
def case() -> Case:
    return Case()


def test_without_problems_the_worker_is_ready_and_says_its_roles(case: Case) -> None:
    assert case.readiness.document() == {
        "ready": True,
        "pid": 42,
        "version": "1.2",
        "ledger_id": "ledger",
        "hosts": {
            "h1": {"role": "active", "since": "2023-11-14T22:15:00.000+00:00"},
            "h2": {"role": "standby", "since": "2023-11-14T22:15:00.000+00:00"},
        },
        "problems": [],
    }
    assert in_short(case.readiness.document()) == "active for h1; standby for h2"


def test_a_role_has_the_time_of_its_last_change(case: Case) -> None:
    case.readiness.document()
    case.now += 5
    case.change(active=frozenset(HOSTS))
    case.now += 1
    case.readiness.document()
    case.now += 60

    hosts = case.readiness.document()["hosts"]

    assert hosts["h1"] == {"role": "active", "since": "2023-11-14T22:15:00.000+00:00"}
    assert hosts["h2"] == {"role": "active", "since": "2023-11-14T22:15:06.000+00:00"}


def test_a_host_that_is_not_served_has_no_role(case: Case) -> None:
    case.change(served=frozenset({"h1"}), refused={"h2": "the ledger x serves it"})

    assert case.readiness.document()["hosts"]["h2"]["role"] == "none"


@pytest.mark.parametrize(
    ("changes", "code", "texts"),
    [
        ({"starting": "it waits for the database", "contact": None}, "starting", ["it waits for the database"]),
        ({"stopping": True}, "stopping", ["stops"]),
        ({"stopping": True, "starting": "it has just begun"}, "stopping", ["stops"]),
        ({"stands": 12.4}, "stalled", ["12 s", "[health] turn_seconds (10 s)", "[tracker] stall_seconds"]),
        ({"store_error": "no answer"}, "store_unavailable", ["no answer", "[database] connection"]),
        ({"blocked": Blocked(reason="memory", since=1.0)}, "broker_alarm", ["memory", "b1:5672, b2:5672"]),
        ({"locked": {"h2": 7.0}}, "store_unavailable", ["7 s", "h2", "another session", "[database] connection"]),
        ({"unheard": {"h1": 12.0}}, "deaf", ["12 s", "h1", "[health] probe_interval_seconds"]),
        ({"unanswered": 11.0}, "broker_unreachable", ["11 s", "b1:5672, b2:5672", "[DEFAULT] transport_url"]),
        (
            {"served": frozenset({"h1"}), "refused": {"h2": "the ledger x serves it"}},
            "other_ledger",
            ["h2 is not served: the ledger x serves it"],
        ),
        (
            {"served": frozenset({"h1"}), "pending": {"h2": ""}},
            "not_consuming",
            ["h2 is not served: the markers on the broker have yet to be looked at"],
        ),
    ],
)
def test_a_problem_has_its_code_its_figures_and_where_to_look(
    case: Case, changes: dict[str, Any], code: str, texts: list[str]
) -> None:
    case.change(**changes)

    found = case.problems()

    assert list(found) == [code]
    for text in texts:
        assert text in found[code]
    assert found[code] in in_short(case.readiness.document())


@pytest.mark.parametrize("missing", ["consuming", "publishing"])
def test_either_connection_is_missed_with_the_reason_and_nothing_that_follows_from_it(case: Case, missing: str) -> None:
    case.change(contact={missing: False, "problem": "refused", "consumed": frozenset()}, pending={"h1": ""})

    assert list(case.problems()) == ["broker_unreachable"]
    assert (
        "there is no connection to b1:5672, b2:5672 (refused): see [DEFAULT]" in case.problems()["broker_unreachable"]
    )


@pytest.mark.parametrize(
    ("missing", "named"), [("h2", "h2"), (SHARED, "the shared queue"), (FANOUT, "the queue of fanouts")]
)
def test_a_queue_that_is_not_consumed_is_named(case: Case, missing: str, named: str) -> None:
    case.change(contact={"consumed": CONTACT["consumed"] - {missing}})  # type: ignore[operator]

    assert case.problems() == {
        "not_consuming": f"the broker does not deliver from the queues of {named}: the log says why"
    }


def test_several_problems_are_listed_causes_first(case: Case) -> None:
    case.change(stands=20.0, store_error="away", unheard={"h1": 11.0}, unanswered=11.0)

    assert list(case.problems()) == ["stalled", "store_unavailable", "broker_unreachable", "deaf"]


def test_a_problem_says_for_how_long_it_is_known_and_begins_anew(case: Case) -> None:
    case.change(store_error="away")
    assert "now" not in case.problems()["store_unavailable"]
    case.now += 7
    assert case.problems()["store_unavailable"].endswith("; for 7 s now")
    case.change(store_error="")
    assert case.problems() == {}
    case.change(store_error="away")
    assert "now" not in case.problems()["store_unavailable"]


def test_many_hosts_are_counted() -> None:
    assert names([f"h{number}" for number in range(13)]) == "h0, h1, h10, h11, h12, h2, h3, h4, h5, h6 and 3 more"
