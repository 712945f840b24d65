# SPDX-License-Identifier: Apache-2.0
"""The contract of a store with segments of what was charged, and with closed periods."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace

from tests.support.builders import HOST, NOW, begin, node_name, update, uuid
from tests.support.store import StoreCase, Writer, load, register, settle, snapshots
from tracker_worker.domain.commands import BeginPeriod, FinishClaim, ForgetUsage, TellUsage
from tracker_worker.domain.events import LifeNoted, PeriodsNoted
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.segments import Segment, after_cut, in_period, whole_seconds
from tracker_worker.domain.values import SECOND
from tracker_worker.store.base import Commit, Store

N1, N2 = node_name(1), node_name(2)
FIRST = NOW - NOW % (3600 * SECOND)
HOUR = 3600 * SECOND
EVER = 2**62


def stored(store: Store, node_id: int, *uuids: str, beginning: int = 0, ending: int = EVER) -> list[Segment]:
    usages = store.usage(node_id, uuids or [uuid(1)], beginning=beginning, ending=ending)
    assert [usage.uuid for usage in usages] == sorted(uuids or [uuid(1)])
    return [segment for usage in usages for segment in usage.segments]


def _in_order(segments: list[Segment]) -> list[Segment]:
    """What says when is the segment, and not its allocation."""
    return sorted([replace(each, allocation=replace(each.allocation, since=0)) for each in segments], key=repr)


def closed(writer: Writer, number: int = 1) -> Writer:
    """Close the next period of the first node, as if nothing had been charged in it."""
    ledger = writer[N1]
    beginning = FIRST + (number - 1) * HOUR
    known = ledger.periods.until
    writer.put(
        BeginPeriod(node=N1, node_id=ledger.id, known=known, beginning=beginning, ending=beginning + HOUR),
        beginning + HOUR,
    )
    return writer.put(
        TellUsage(node=N1, node_id=ledger.id, ending=beginning + HOUR, after="", usages=(), closed=(), last=True),
        beginning + HOUR,
    )


class SegmentContract(StoreCase):
    def test_what_was_charged_is_kept_by_time(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        writer.put(FinishClaim(claim_id=uuid(1)), NOW + 3 * SECOND).commit()
        writer.put(update(1, project_id="other", metadata={"name": "🦊"}), NOW + 5 * SECOND)
        writer.put(update(1, vm_state="active", task_state=None), NOW + 9 * SECOND).commit()
        (usage,) = second.usage(writer[N1].id, [uuid(1)], beginning=0, ending=EVER)
        assert usage.allocation == load(second).nodes[N1].allocations[uuid(1)] == writer[N1].allocations[uuid(1)]
        assert usage.allocation is not None
        assert usage.allocation.since == NOW + 9 * SECOND
        said = [
            (each.since, each.until, each.allocation.claim_state, each.allocation.instance) for each in usage.segments
        ]
        assert [(since - NOW, until - NOW, state) for since, until, state, _ in said] == [
            (0, 3 * SECOND, "begun"),
            (3 * SECOND, 5 * SECOND, "finished"),
            (5 * SECOND, 9 * SECOND, "finished"),
        ]
        assert [instance.project_id == "other" for *_, instance in said] == [False, False, True]
        assert said[-1][-1].metadata == {"name": "🦊"}
        assert store.billed(writer[N1].id, beginning=0, ending=EVER) == {uuid(1): 3}
        assert store.billed(writer[N2].id, beginning=0, ending=EVER) == {}

    def test_sums_of_a_period_that_is_being_told_may_be_of_any_size(self, store: Store, second: Store) -> None:
        writer = settle(store)
        ledger = writer[N1]
        told = Periods(until=NOW, first=NOW, ending=2 * NOW, after=uuid(1), resource_seconds={"CUSTOM_BYTES": 2**80})
        ledger.apply(PeriodsNoted(at=NOW, periods=told))
        store.commit(Commit(ledgers=[ledger]))
        assert load(second).nodes[N1].periods == told

    def test_a_period_has_the_segments_with_a_part_in_it(self, store: Store) -> None:
        writer = settle(store)
        charged = {1: (0, 10), 2: (15, 20), 3: (5, 15), 4: (0, 30)}
        for second in range(31):
            for number, (since, until) in charged.items():
                if second == since:
                    writer.put(begin(number, node=N1), NOW + since * SECOND)
                elif second == until:
                    writer.put(update(number, vm_state="deleted"), NOW + until * SECOND)
        writer.commit()
        node = writer[N1].id
        names = [uuid(number) for number in range(1, 5)]
        period = {"beginning": NOW + 10 * SECOND, "ending": NOW + 15 * SECOND}
        assert list(store.billed(node, **period)) == [uuid(3), uuid(4)]
        assert [each.uuid for each in stored(store, node, *names, **period)] == [uuid(3), uuid(4)]
        assert store.billed(node, beginning=NOW + 30 * SECOND, ending=EVER) == {}

    def test_how_far_the_periods_are_closed_is_kept(self, store: Store, second: Store) -> None:
        writer = closed(settle(store)).commit()
        assert snapshots(load(second)) == snapshots(writer.host)
        assert load(second).nodes[N1].periods == Periods(until=FIRST + HOUR, first=FIRST)
        closed(writer, 2).commit()
        node = writer[N1].id
        assert second.closed_periods(node, since=0, until=EVER) == [
            (FIRST, FIRST + HOUR),
            (FIRST + HOUR, FIRST + 2 * HOUR),
        ]
        assert second.closed_periods(node, since=FIRST + HOUR, until=EVER) == [(FIRST + HOUR, FIRST + 2 * HOUR)]
        assert second.closed_periods(node, since=0, until=FIRST + HOUR) == [(FIRST, FIRST + HOUR)]

    @pytest.mark.parametrize("seed", range(5))
    def test_segments_are_cut_as_the_ledger_cuts_those_of_a_commit(self, store: Store, seed: int) -> None:
        random = Random(seed)
        writer = settle(store).put(begin(1, node=N1)).put(begin(2, node=N1)).commit()
        ledger = writer[N1]
        held = {name: ledger.allocations[name] for name in (uuid(1), uuid(2))}
        ledger.periods = Periods(until=NOW, first=NOW)
        known: list[Segment] = []
        for number in range(40):
            at = NOW + random.randrange(100 * SECOND)
            for _ in range(random.randint(1, 3)):
                name = random.choice(list(held))
                match random.randrange(4):
                    case 0:
                        ledger.segments.cut(name, at, ledger.periods, at + random.randrange(9 * SECOND))
                    case 1:
                        since = ledger.segments.begin(held[name], at, ledger.periods, at)
                        held[name] = replace(held[name], since=since)
                    case _:
                        ledger.segments.end(held[name], at, ledger.periods, at)
            if number % 7 == 6:
                ledger.periods = replace(ledger.periods, until=ledger.periods.until + 12 * SECOND)
            for cut in ledger.segments.cuts:
                known = list(after_cut(known, cut))
            known += ledger.segments.added
            ledger.apply(LifeNoted(at=NOW, life=ledger.life))
            writer.commit()
            found = stored(store, ledger.id, *held)
            assert _in_order(found) == _in_order(known)
        assert any(each.adjusts < 0 for each in known)
        assert any(each.adjusts > 0 for each in known)
        assert all(whole_seconds(each.since, each.until) > 0 for each in known)
        assert {each.uuid for each in known if in_period(each, NOW, NOW + 50 * SECOND)} == set(
            store.billed(ledger.id, beginning=NOW, ending=NOW + 50 * SECOND)
        )

    def test_old_usage_is_dropped_when_it_is_no_longer_kept(self, store: Store) -> None:
        writer = settle(store)
        for number in range(1, 8):
            writer.put(begin(number, node=N1), NOW)
        for number in range(1, 8):
            writer.put(update(number, vm_state="deleted"), NOW + 5 * SECOND)
        closed(writer).commit()
        writer.put(begin(9, node=N1), FIRST + HOUR)
        writer.put(update(9, vm_state="deleted"), FIRST + HOUR + 5 * SECOND)
        closed(writer, 2).commit()
        node, rows = writer[N1].id, {"answered_before": 0, "occurred_before": 0}
        assert store.prune(writer.host.id, **rows, limit=5) == 0
        writer.put(ForgetUsage(node=N1, node_id=node, ended_before=FIRST + HOUR + SECOND)).commit()
        assert store.prune(writer.host.id, **rows, limit=5) == 5
        assert store.prune(writer.host.id, **rows, limit=5) == 2
        assert store.prune(writer.host.id, **rows, limit=5) == 0
        assert store.billed(node, beginning=0, ending=EVER) == {uuid(9): 1}
        assert store.closed_periods(node, since=0, until=EVER) == [(FIRST + HOUR, FIRST + 2 * HOUR)]

    def test_a_host_is_forgotten_with_the_usage_of_its_nodes(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1))
        writer.put(update(1, vm_state="deleted"), NOW + 5 * SECOND)
        closed(writer).commit()
        store.forget_host(writer.host.id)
        register(store)
        store.create_node(load(store, HOST).id, N1)
        assert store.billed(load(store, HOST).nodes[N1].id, beginning=0, ending=EVER) == {}
