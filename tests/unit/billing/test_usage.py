# SPDX-License-Identifier: Apache-2.0
"""What projects were charged: in whole seconds, for what each event says, from the events or from the exists notifications."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.support.billing.messages import (
    LARGE,
    NOTHING,
    SMALL,
    adjustment,
    at,
    charged,
    closed,
    exists,
    moved,
    node,
    told,
)
from tests.support.builders import uuid
from tracker_worker.billing import Books, Difference, Usage

DAY = "2026-01-01", "2026-01-02"
HOUR = at(0), at(60)


@pytest.fixture
def books() -> Books:
    return Books({})


def pieces(usage: Usage, project: str = "p", number: int = 1) -> list[tuple[str, str, int]]:
    """(from, to, VCPU) of an instance's segments; the times without the day."""
    if project not in usage:
        return []
    segments = usage[project]["instances"][uuid(number)]["segments"]
    return [(each["from"][11:19], each["to"][11:19], each["resources"]["VCPU"]) for each in segments]


class TestEvents:
    def test_the_usage_has_this_shape(self, books: Books) -> None:
        books.hear_all([node(1, 0), charged(2, 10, SMALL), charged(3, 30, LARGE), charged(4, 50)])
        assert books.usage(*DAY) == {
            "p": {
                "seconds": 2400,
                "resource_seconds": {"DISK_GB": 6000, "MEMORY_MB": 3072000, "VCPU": 6000},
                "instances": {
                    uuid(1): {
                        "seconds": 2400,
                        "resource_seconds": {"DISK_GB": 6000, "MEMORY_MB": 3072000, "VCPU": 6000},
                        "segments": [
                            {
                                "from": "2026-01-01T00:10:00Z",
                                "to": "2026-01-01T00:30:00Z",
                                "seconds": 1200,
                                "resources": {"DISK_GB": 1, "MEMORY_MB": 512, "VCPU": 1},
                                "state": "active",
                                "claim_state": "finished",
                                "host": "h1",
                                "node": "a",
                            },
                            {
                                "from": "2026-01-01T00:30:00Z",
                                "to": "2026-01-01T00:50:00Z",
                                "seconds": 1200,
                                "resources": {"DISK_GB": 4, "MEMORY_MB": 2048, "VCPU": 4},
                                "state": "active",
                                "claim_state": "finished",
                                "host": "h1",
                                "node": "a",
                            },
                        ],
                    }
                },
            }
        }

    def test_projects_and_instances_add_up(self, books: Books) -> None:
        books.hear_all(
            [
                charged(1, 0, SMALL, number=2),
                charged(2, 0, LARGE, number=1),
                charged(3, 0, {**SMALL, "VGPU": 2}, number=3, tenant_id="q"),
            ]
        )
        usage = books.usage(*HOUR)
        assert list(usage) == ["p", "q"]
        assert list(usage["p"]["instances"]) == [uuid(1), uuid(2)]
        assert usage["p"]["resource_seconds"]["VCPU"] == 5 * 3600
        assert usage["p"]["seconds"] == 2 * 3600
        assert usage["q"]["resource_seconds"]["VGPU"] == 2 * 3600

    def test_times_are_floored_before_they_are_subtracted(self, books: Books) -> None:
        second = 1 / 60
        events = [charged(n + 1, n * 0.7 * second, SMALL if n % 2 else LARGE) for n in range(1, 101)]
        books.hear_all([node(1, 0), *events, charged(102, 100.999 * second)])
        usage = books.usage(*DAY)["p"]
        assert usage["seconds"] == 100  # truncating each duration would be 0
        assert usage["instances"][uuid(1)]["seconds"] == sum(
            each["seconds"] for each in usage["instances"][uuid(1)]["segments"]
        )

    def test_an_owner_change_ends_the_charge_of_the_one_before(self, books: Books) -> None:
        books.hear_all([charged(1, 10, SMALL), charged(2, 30, SMALL, tenant_id="q"), charged(3, 40, tenant_id="q")])
        usage = books.usage(*DAY)
        assert pieces(usage, "p") == [("00:10:00", "00:30:00", 1)]
        assert pieces(usage, "q") == [("00:30:00", "00:40:00", 1)]

    def test_a_change_of_a_state_divides_and_what_changes_nothing_does_not(self, books: Books) -> None:
        books.hear_all(
            [
                charged(1, 10, SMALL, claim_state="begun", event_type="tracker.claim.begun"),
                charged(2, 20, SMALL, claim_state="begun", event_type="tracker.claim.renewed"),
                charged(3, 30, SMALL, event_type="tracker.claim.finished"),
                charged(4, 40, SMALL, user_id="another"),
                charged(5, 50, event_type="tracker.usage.released"),
            ]
        )
        segments = books.usage(*DAY)["p"]["instances"][uuid(1)]["segments"]
        assert [(each["from"][14:16], each["to"][14:16], each["claim_state"]) for each in segments] == [
            ("10", "30", "begun"),
            ("30", "50", "finished"),
        ]

    def test_an_interval_is_half_open_and_takes_texts_and_datetimes(self, books: Books) -> None:
        books.hear_all([charged(1, 10, SMALL), charged(2, 30)])
        begin, end = datetime(2026, 1, 1, 0, 20, tzinfo=UTC), datetime(2026, 1, 1, 0, 25, tzinfo=UTC)
        assert pieces(books.usage(begin, end)) == [("00:20:00", "00:25:00", 1)]
        assert books.usage("2026-01-01T00:30:00Z", "2026-01-01T00:40:00Z") == {}
        assert books.usage("2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z") == {}

    def test_what_is_still_charged_goes_on_to_the_end(self, books: Books) -> None:
        books.hear(charged(1, 10, SMALL))
        assert books.usage(*DAY)["p"]["seconds"] == 86400 - 600

    @pytest.mark.parametrize("interval", [("2026-01-02", "2026-01-01"), ("x", "2026-01-01"), ("2026-01-01", None)])
    def test_what_is_no_interval_is_refused(self, books: Books, interval: tuple[str, str]) -> None:
        for ask in (books.usage, books.closed, books.differences):
            with pytest.raises(ValueError):
                ask(*interval)

    def test_another_source_is_refused(self, books: Books) -> None:
        with pytest.raises(ValueError, match="events or exists"):
            books.usage(*DAY, "tables")  # type: ignore[arg-type]


class TestMoves:
    def test_a_hand_over_between_hosts_is_billed_without_a_gap_whenever_it_is_told(self, books: Books) -> None:
        other = ("h2", "a")
        books.hear_all(
            [
                charged(1, 0, SMALL),
                charged(1, 10, SMALL, place=other, event_type="tracker.move.begun", role="incoming", effective_at=""),
                moved(2, 20, 20, LARGE, place=other),
                moved(2, 200, 20, None, role="hold"),
                charged(3, 210, event_type="tracker.move.confirmed", effective_at=""),
            ]
        )
        assert pieces(books.usage(*HOUR)) == [("00:00:00", "00:20:00", 1), ("00:20:00", "01:00:00", 4)]

    def test_it_cuts_what_later_events_of_the_node_had_said(self, books: Books) -> None:
        books.hear_all(
            [
                charged(1, 0, SMALL),
                charged(2, 30, LARGE, tenant_id="q"),
                moved(3, 50, 20, None),
                charged(4, 55, SMALL, event_type="tracker.claim.begun"),
            ]
        )
        usage = books.usage(*HOUR)
        assert pieces(usage) == [("00:00:00", "00:20:00", 1), ("00:55:00", "01:00:00", 1)]
        assert "q" not in usage

    def test_it_never_makes_a_length_below_zero(self, books: Books) -> None:
        books.hear_all([charged(1, 30, SMALL), moved(2, 50, 10, None)])
        assert books.usage(*DAY) == {}

    def test_a_revert_charges_the_source_again_from_its_time_on(self, books: Books) -> None:
        books.hear_all(
            [
                charged(1, 0, SMALL),
                moved(2, 50, 10, None, role="hold"),
                moved(3, 51, 20, SMALL, event_type="tracker.move.reverted"),
            ]
        )
        assert pieces(books.usage(*HOUR)) == [("00:00:00", "00:10:00", 1), ("00:20:00", "01:00:00", 1)]

    def test_what_is_incoming_in_the_same_place_changes_no_owner(self, books: Books) -> None:
        """The project of what is incoming is that of the request, until it is the instance."""
        incoming = {"event_type": "tracker.move.begun", "role": "incoming", "effective_at": "", "tenant_id": "admin"}
        books.hear_all([charged(1, 0, SMALL), charged(2, 10, SMALL, **incoming), moved(3, 20, 20, LARGE)])
        usage = books.usage(*HOUR)
        assert list(usage) == ["p"]
        assert pieces(usage) == [("00:00:00", "00:20:00", 1), ("00:20:00", "01:00:00", 4)]

    def test_a_hand_over_ahead_of_the_sources_clock_holds_from_its_time_on(self, books: Books) -> None:
        books.hear_all(
            [
                charged(1, 0, SMALL),
                moved(2, 10, 30, None, role="hold"),
                charged(3, 15, event_type="tracker.move.confirmed", effective_at=""),
                charged(4, 16, event_type="tracker.usage.released"),
            ]
        )
        assert pieces(books.usage(*HOUR)) == [("00:00:00", "00:30:00", 1)]

    def test_what_is_said_before_a_hand_over_ahead_takes_effect(self, books: Books) -> None:
        begun = [charged(1, 0, SMALL), moved(2, 10, 30, LARGE)]
        books.hear_all([*begun, charged(3, 20, LARGE, event_type="tracker.claim.renewed")])
        assert pieces(books.usage(*HOUR)) == [("00:00:00", "00:30:00", 1), ("00:30:00", "01:00:00", 4)]
        books.hear(charged(4, 25, LARGE, state="stopped"))
        assert pieces(books.usage(*HOUR)) == [("00:00:00", "00:25:00", 1), ("00:25:00", "01:00:00", 4)]


class TestExists:
    def test_they_say_the_same_by_themselves(self, books: Books) -> None:
        first = exists(3, 60, 0, 60, (10, 30, SMALL), (30, 60, LARGE))
        second = exists(6, 120, 60, 120, (60, 90, LARGE))
        books.hear_all(
            [
                charged(1, 10, SMALL),
                charged(2, 30, LARGE),
                first,
                closed(4, 60, 0, 60, first),
                charged(5, 90),
                second,
                closed(7, 120, 60, 120, second),
            ]
        )
        day = at(0), at(120)
        assert books.usage(*day, "exists") == books.usage(*day)
        assert pieces(books.usage(at(20), at(70), "exists")) == [
            ("00:20:00", "00:30:00", 1),
            ("00:30:00", "01:10:00", 4),
        ]
        assert books.differences(*day) == []

    def test_they_change_nothing_in_the_usage_by_events(self, books: Books) -> None:
        books.hear_all([charged(1, 10, SMALL), exists(2, 60, 0, 60, (10, 60, LARGE), tenant_id="q")])
        assert list(books.usage(*DAY)) == ["p"]
        assert list(books.usage(*DAY, "exists")) == ["q"]

    def test_an_adjustment_belongs_to_the_period_that_it_names(self, books: Books) -> None:
        later = exists(4, 120, 60, 120, adjustments=[adjustment(0, 60, -1800, SMALL)])
        books.hear_all([charged(1, 0, SMALL), exists(2, 60, 0, 60, (0, 60, SMALL)), moved(3, 90, 30, None), later])
        assert books.differences(*HOUR) == []
        instance = books.usage(*HOUR, "exists")["p"]["instances"][uuid(1)]
        assert instance["seconds"] == 1800
        assert instance["adjustments"] == [
            {
                "audit_period_beginning": "2026-01-01T00:00:00Z",
                "audit_period_ending": "2026-01-01T01:00:00Z",
                "seconds": -1800,
                "resource_seconds": {"DISK_GB": -1800, "MEMORY_MB": -921600, "VCPU": -1800},
                "host": "h1",
                "node": "a",
            }
        ]
        assert books.usage(at(60), at(120), "exists") == {}
        with pytest.raises(ValueError, match="lies partly outside"):
            books.usage(at(30), at(120), "exists")

    def test_a_difference_is_said_for_each_class(self, books: Books) -> None:
        books.hear_all([charged(1, 0, SMALL), charged(2, 10), exists(3, 60, 0, 60, (0, 20, {**SMALL, "DISK_GB": 0}))])
        books.hear(exists(4, 60, 0, 60, (0, 1, NOTHING), tenant_id="q"))
        assert books.differences(*HOUR) == [
            Difference("p", uuid(1), "DISK_GB", 600, 0),
            Difference("p", uuid(1), "MEMORY_MB", 307200, 614400),
            Difference("p", uuid(1), "VCPU", 600, 1200),
            Difference("p", uuid(1), "seconds", 600, 1200),
            Difference("q", uuid(1), "seconds", 0, 60),
        ]


def test_events_of_other_things_change_nothing(books: Books) -> None:
    books.hear_all(
        [
            charged(1, 0, SMALL),
            charged(2, 10, LARGE, event_type="tracker.claim.rejected"),
            told(3, "tracker.node.drift", 20, kind="usage"),
            node(4, 30, state="stale"),
            told(5, "tracker.new.thing", 40),
        ]
    )
    assert pieces(books.usage(*HOUR)) == [("00:00:00", "01:00:00", 1)]
    assert books.missing() == {}
