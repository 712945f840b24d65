# SPDX-License-Identifier: Apache-2.0
"""Into which statements a commit on PostgreSQL is divided."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from tests.support.builders import begin, node_name
from tests.support.store import Writer, answer, note, settle
from tracker_worker.store.base import Commit
from tracker_worker.store.memory import MemoryStore
from tracker_worker.store.sql.postgresql import MOST_BYTES, MOST_ROWS, parameters_of

N1 = node_name(1)


@pytest.fixture
def writer() -> Writer:
    return settle(MemoryStore())


def rows_of(commit: Commit) -> list[dict[str, int]]:
    """Table -> number of rows, of each statement that has rows."""
    found = []
    for parameters in parameters_of(commit):
        counted = {name: len(json.loads(text)) for name, text in parameters.items() if text is not None}
        found.append({name: count for name, count in counted.items() if count})
    return found


def test_an_ordinary_commit_is_one_statement(writer: Writer) -> None:
    for number in range(MOST_ROWS - 1):
        writer.put(begin(number, node=N1))
    answers = [answer(f"u-{number}") for number in range(MOST_ROWS)]
    commit = writer.made(*answers, cursors={ledger.stream_id: 1 for ledger in writer.host})
    verified = {1: {ledger.id: ledger.stored_generation for ledger in writer.host}}
    assert rows_of(replace(commit, verified=verified)) == [
        {"nodes": 1, "kept": 999, "inbox": 1000, "outbox": 999, "cursors": 2, "verified": 1}
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
    sizes = [MOST_BYTES // 4, MOST_BYTES // 4, MOST_BYTES, 10, MOST_BYTES // 2, MOST_BYTES // 2]
    answers = [replace(answer(f"u-{number}"), reply=bytes(size)) for number, size in enumerate(sizes)]
    commit = Commit(inbox_rows=answers, notifications=[note(writer[N1], 7)])
    assert rows_of(commit) == [
        {"inbox": 2},
        {"inbox": 1},
        {"inbox": 2},
        {"inbox": 1},
        {"outbox": 1},
    ]
    lengths = [sum(len(text or "") for text in parameters.values()) for parameters in parameters_of(commit)]
    assert [length > MOST_BYTES + 100 for length in lengths] == [False, True, False, False, False]


def test_a_commit_of_nothing_has_one_statement() -> None:
    assert rows_of(Commit()) == [{}]
