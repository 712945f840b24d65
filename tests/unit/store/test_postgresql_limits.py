# SPDX-License-Identifier: Apache-2.0
"""Into which statements a commit on PostgreSQL is divided."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.builders import begin, node_name
from tests.support.store import Writer, answer, note, settle
from tracker_worker.store.base import Commit
from tracker_worker.store.memory import MemoryStore
from tracker_worker.store.sql.arrays import Binary
from tracker_worker.store.sql.compound import columns_of
from tracker_worker.store.sql.postgresql import MOST_BYTES, MOST_ROWS, filled_of

N1 = node_name(1)


@pytest.fixture
def writer() -> Writer:
    return settle(MemoryStore())


def rows_of(commit: Commit) -> list[dict[str, int]]:
    """Table -> number of rows, of each statement."""
    found = []
    for tables, single, parameters in filled_of(commit):
        left = iter(parameters)
        counted = {name: [length(next(left), single=single) for _ in columns_of(name, [])] for name in tables}
        assert all(len(set(lengths)) == 1 for lengths in counted.values())
        assert next(left, None) is None
        found.append({name: lengths[0] for name, lengths in counted.items()})
    return found


def length(parameter: Binary | None, *, single: bool) -> int:
    """The number of elements of an array, which its header has after three other numbers."""
    return 1 if single or parameter is None else int.from_bytes(parameter[12:16], "big")


def test_an_ordinary_commit_is_one_statement(writer: Writer) -> None:
    for number in range(MOST_ROWS - 1):
        writer.put(begin(number, node=N1))
    answers = [answer(f"u-{number}") for number in range(MOST_ROWS)]
    commit = writer.made(*answers, cursors={ledger.stream_id: 1 for ledger in writer.host})
    verified = {1: {ledger.id: ledger.stored_generation for ledger in writer.host}}
    assert rows_of(replace(commit, verified=verified)) == [
        {"verified": 1, "nodes": 1, "kept": 999, "inbox": 1000, "outbox": 999, "cursors": 2}
    ]


def test_one_row_more_of_a_table_makes_several_statements_in_order(writer: Writer) -> None:
    writer.put(begin(1, node=N1))
    answers = [answer(f"u-{number:04}") for number in range(2 * MOST_ROWS + 1)]
    commit = replace(writer.made(*answers), verified={1: {}})
    assert rows_of(commit) == [
        {"verified": 1},
        {"nodes": 1},
        {"kept": 1},
        {"inbox": 1000},
        {"inbox": 1000},
        {"inbox": 1},
        {"outbox": 1},
    ]


def test_a_statement_has_a_limit_in_bytes_and_one_larger_row_goes_alone(writer: Writer) -> None:
    sizes = [MOST_BYTES // 4, MOST_BYTES // 4, MOST_BYTES + 2000, 10, MOST_BYTES // 2, MOST_BYTES // 2]
    answers = [replace(answer(f"u-{number}"), reply=bytes(size)) for number, size in enumerate(sizes)]
    commit = Commit(inbox_rows=answers, notifications=[note(writer[N1], 7)])
    assert rows_of(commit) == [
        {"inbox": 2},
        {"inbox": 1},
        {"inbox": 2},
        {"inbox": 1},
        {"outbox": 1},
    ]
    sizes = [sum(len(each or b"") for each in filled.parameters) for filled in filled_of(commit)]
    assert [size > MOST_BYTES + 1000 for size in sizes] == [False, True, False, False, False]


def test_a_claim_that_comes_alone_has_values_and_no_arrays(writer: Writer) -> None:
    commit = writer.put(begin(1, node=N1)).made(answer("u-1"), cursors={writer[N1].stream_id: 1})
    assert [(each.tables, each.single) for each in filled_of(commit)] == [
        (("nodes", "kept", "inbox", "outbox", "cursors"), True)
    ]
    larger = replace(commit, inbox_rows=[replace(answer("u-1"), reply=bytes(MOST_BYTES))])
    assert not any(each.single for each in filled_of(larger))


def test_a_commit_of_nothing_has_one_statement() -> None:
    assert rows_of(Commit()) == [{}]
