# SPDX-License-Identifier: Apache-2.0
"""The contract of a store about what was decided: refusals that made no event, and notifications that are looked for."""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from tests.support.builders import HOST, NOW, node_name
from tests.support.store import ALL, StoreCase, Writer, note, register
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import Commit, RefusalRow, Store

N1, N2 = node_name(1), node_name(2)
BEGUN, ENDED = "tracker.claim.begun", "tracker.claim.aborted"


_ids = itertools.count(1)


def refusal(number: int, **fields: str) -> RefusalRow:
    row = RefusalRow(
        id=f"{next(_ids):036}",
        at=NOW + number,
        host=HOST,
        node=N1,
        instance_uuid=f"i-{number}",
        record=b'{"reason":"\xc5\xbd%d"}' % number,
    )
    return replace(row, **fields)


class OutcomeContract(StoreCase):
    def test_refusals_are_read_as_they_were_kept_and_the_newest_first(self, store: Store, second: Store) -> None:
        rows = [refusal(1), refusal(3), replace(refusal(2), at=NOW + 3)]
        store.keep_refusals(rows[:2], ALL)
        second.keep_refusals(rows[2:], ALL)
        store.keep_refusals([], ALL)
        second.keep_refusals(rows[:1], ALL)  # again, as nobody knew whether it was kept
        assert store.refusals() == [rows[2], rows[1], rows[0]]

    def test_only_the_refusals_that_were_kept_last_stay(self, store: Store) -> None:
        store.keep_refusals([refusal(number) for number in range(1, 8)], 5)
        assert [row.at - NOW for row in store.refusals()] == [7, 6, 5, 4, 3]
        store.keep_refusals([refusal(1)], 3)
        assert [row.at - NOW for row in store.refusals()] == [7, 6, 1]
        store.keep_refusals([refusal(9)], 0)
        assert store.refusals() == []

    def test_refusals_are_looked_for_by_host_node_instance_and_time(self, store: Store) -> None:
        rows = [refusal(1), refusal(2, host="host-2"), refusal(3, node=N2), refusal(4, instance_uuid="i-1")]
        store.keep_refusals(rows, ALL)
        assert store.refusals(host="host-2") == [rows[1]]
        assert store.refusals(node=N2, host=HOST) == [rows[2]]
        assert store.refusals(instance_uuid="i-1") == [rows[3], rows[0]]
        assert store.refusals(since=NOW + 3) == [rows[3], rows[2]]
        assert store.refusals(host="nowhere") == []

    def told(self, store: Store) -> list[Notification]:
        """Six notifications of two nodes, oldest first."""
        register(store)
        for name in (N1, N2):
            store.create_node(1, name)
        writer = Writer(store)
        rows = [
            note(writer[N1], 1, at=NOW, event_type=BEGUN),
            note(writer[N2], 1, at=NOW, event_type=BEGUN),
            note(writer[N1], 2, at=NOW, event_type=ENDED),
            note(writer[N1], 3, at=NOW + 1, event_type="tracker.usage.exists"),
            replace(note(writer[N2], 2, at=NOW + 2, event_type=BEGUN), payload='{"instance_id":"ž-1"}'.encode()),
            replace(note(writer[N1], 4, at=NOW + 3, event_type=BEGUN), asked=b'{"project_id":"p"}'),
        ]
        store.commit(Commit(notifications=rows))
        return sorted(rows, key=lambda row: (row.occurred_at, row.stream_id, row.sequence))

    def test_notifications_are_found_the_latest_first_page_by_page(self, store: Store) -> None:
        rows = self.told(store)
        kinds = [BEGUN, ENDED, "tracker.usage.exists"]
        assert store.told(event_types=kinds, limit=ALL) == rows[::-1]
        found, before = [], None
        while page := store.told(event_types=kinds, before=before, limit=2):
            assert len(page) <= 2
            found += page
            before = (page[-1].occurred_at, page[-1].stream_id, page[-1].sequence)
        assert found == rows[::-1]

    def test_notifications_are_looked_for_by_type_name_time_and_content(self, store: Store) -> None:
        rows = self.told(store)
        assert store.told(event_types=[ENDED], limit=ALL) == [row for row in rows if row.event_type == ENDED]
        assert store.told(event_types=[BEGUN], node=N2, limit=ALL) == [row for row in rows[::-1] if row.node == N2]
        assert store.told(event_types=[BEGUN], host="host-2", limit=ALL) == []
        assert store.told(event_types=[BEGUN], since=NOW + 3, limit=ALL) == rows[-1:]
        assert store.told(event_types=[BEGUN], containing='"ž-1"'.encode(), limit=ALL) == [rows[-2]]
        assert store.told(event_types=[BEGUN], containing=b'"p"', limit=ALL) == [rows[-1]]
        assert store.told(event_types=[BEGUN], containing=b"%", limit=ALL) == []
        assert store.told(event_types=[], limit=ALL) == []
