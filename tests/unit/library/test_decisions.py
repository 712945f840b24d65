# SPDX-License-Identifier: Apache-2.0
"""What the library reads from the store before it reports a decision."""

from __future__ import annotations

from tests.support.builders import HOST, NOW, begin, node_name
from tests.support.scripted import ScriptedStore
from tests.support.store import Writer, settle
from tracker_worker.library.decisions import Decisions


def _decisions() -> tuple[ScriptedStore, Decisions]:
    store = ScriptedStore()
    settle(store.inner, nodes=2)
    Writer(store.inner).put(begin(1, node=node_name(1))).commit()
    return store, Decisions(store, HOST, now=lambda: NOW, notify=False)


def test_a_refusal_on_ledgers_that_were_just_read_is_not_checked_again() -> None:
    store, decisions = _decisions()
    (refused,) = decisions.commit(begin(1, node=node_name(2)))
    assert refused.error is not None
    assert store.calls == ["load_host"]


def test_a_refusal_on_ledgers_that_were_read_before_is_checked() -> None:
    store, decisions = _decisions()
    decisions.host()
    (refused,) = decisions.commit(begin(1, node=node_name(2)))
    assert refused.error is not None
    assert store.calls == ["load_host", "commit"]
