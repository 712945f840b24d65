# SPDX-License-Identifier: Apache-2.0
"""The states of a node: when it is in which, what it takes in each, and what operators do to it."""

from __future__ import annotations

import pytest

from tests.support.builders import (
    HOST,
    NOW,
    begin,
    claim_id,
    happened,
    host_ledger,
    instance,
    inventory,
    planned,
    play,
    snapshot,
    update,
    uuid,
)
from tracker_worker.domain.commands import (
    AbortClaim,
    DrainNode,
    ExpireClaims,
    FinishClaim,
    NoteElsewhere,
    ReleaseAllocation,
    RenewClaim,
    ReportList,
    ReportNode,
    RetireNode,
    UndrainNode,
)
from tracker_worker.domain.events import ClaimUntracked, LifeNoted, NodeUpdated
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.queries import GetNode, GetUsage, ListClaims, ListNodes, kept, read
from tracker_worker.domain.views import iso, node_view
from tracker_worker.errors import InvalidInput, NodeBusy, NodeDraining, NodeNotFound, NodeUnavailable

STALE_AFTER = 600
NODE = "node-1"

ANSWERS = ReportNode(node=NODE, inventory=inventory())
NOTHING = ReportNode(node=NODE, inventory=None)
FAILS = ReportNode(node=NODE, inventory=None, failure="no route")
LISTED, UNLISTED = ReportList(nodes=frozenset({NODE})), ReportList(nodes=frozenset())
DRAIN, UNDRAIN = DrainNode(node=NODE, reason="disk"), UndrainNode(node=NODE)
RETIRE = RetireNode(node=NODE, reason="sold")


def new_host():
    host = HostLedger(id=1, name=HOST)
    host.nodes[NODE] = NodeLedger(id=1, host=HOST, name=NODE, stream_id=1)
    return host


def lived(*commands, now=NOW):
    host = new_host()
    for command in commands:
        assert play(host, command, now).error is None
    return host


def claim(number=1, **fields):
    return begin(number, more={"stale_after": STALE_AFTER}, **fields)


def shown(host):
    view = node_view(host.nodes[NODE])
    return view["state"], view["state_reason"]


STATES = [
    ((), "unknown", ""),
    ((FAILS,), "unknown", "no route"),
    ((NOTHING,), "unsupported", "the driver reports no inventory"),
    ((NOTHING, FAILS), "unknown", "no route"),
    ((FAILS, NOTHING), "unsupported", "the driver reports no inventory"),
    ((ANSWERS,), "open", ""),
    ((NOTHING, ANSWERS), "open", ""),
    ((ANSWERS, FAILS), "stale", "no route"),
    ((ANSWERS, NOTHING), "stale", "the driver answers nothing"),
    ((ANSWERS, FAILS, ANSWERS), "open", ""),
    ((ANSWERS, UNLISTED), "missing", "the driver does not list the node"),
    ((ANSWERS, FAILS, UNLISTED), "missing", "the driver does not list the node"),
    ((NOTHING, UNLISTED), "missing", "the driver does not list the node"),
    ((UNLISTED,), "missing", "the driver does not list the node"),
    ((ANSWERS, UNLISTED, LISTED), "open", ""),
    ((ANSWERS, UNLISTED, FAILS, LISTED), "stale", "no route"),
    ((ANSWERS, DRAIN), "draining", "disk"),
    ((ANSWERS, DRAIN, FAILS), "draining", "disk"),
    ((ANSWERS, DRAIN, UNLISTED), "draining", "disk"),
    ((NOTHING, DRAIN), "draining", "disk"),
    ((ANSWERS, DRAIN, FAILS, UNDRAIN), "stale", "no route"),
    ((ANSWERS, RETIRE), "retired", "sold"),
    ((ANSWERS, DRAIN, RETIRE), "retired", "sold"),
    ((ANSWERS, RETIRE, ANSWERS, LISTED), "retired", "sold"),
    ((ANSWERS, RETIRE, UNLISTED), "retired", "sold"),
    ((ANSWERS, RETIRE, UNDRAIN), "open", ""),
    ((ANSWERS, DRAIN, RETIRE, UNDRAIN), "open", ""),
    ((ANSWERS, RETIRE, FAILS, UNLISTED, UNDRAIN), "missing", "the driver does not list the node"),
]


@pytest.mark.behaviour("node-states")
@pytest.mark.parametrize(("commands", "state", "reason"), STATES)
def test_a_state_follows_from_inventory_looks_list_and_operators_in_the_order_of_precedence(commands, state, reason):
    assert shown(lived(*commands)) == (state, reason)


@pytest.mark.behaviour("node-states")
@pytest.mark.parametrize(("commands", "state", "reason"), STATES)
def test_each_change_of_state_or_reason_is_one_event_and_whatever_changes_neither_is_none(commands, state, reason):
    host = new_host()
    for number, command in enumerate(commands):
        before, known = shown(host), host.nodes[NODE].inventory
        since = node_view(host.nodes[NODE])["state_since"]
        told = [type(event) for event in happened(play(host, command, NOW + number)) if type(event) is not LifeNoted]
        differs = shown(host) != before or host.nodes[NODE].inventory != known
        assert told == [NodeUpdated] * (differs or not since)
        assert happened(planned(host, command, NOW + number)) in ([], [_renewed(host, command, NOW + number)])
        if shown(host)[0] != before[0] or not since:
            assert node_view(host.nodes[NODE])["state_since"] == iso(NOW + number)
        else:
            assert node_view(host.nodes[NODE])["state_since"] == since


def _renewed(host, command, now):
    """A drained node may be drained again: its mark is of now."""
    [event] = happened(planned(host, command, now)) or [None]
    return event if type(event) is LifeNoted and command == DRAIN else None


@pytest.mark.behaviour("node-states")
@pytest.mark.parametrize(
    ("commands", "error", "facts"),
    [
        ((), NodeUnavailable, {"state": "unknown"}),
        ((FAILS,), NodeUnavailable, {"state": "unknown", "reason": "no route"}),
        ((ANSWERS, UNLISTED), NodeUnavailable, {"state": "missing"}),
        ((NOTHING, UNLISTED), NodeUnavailable, {"state": "missing"}),
        ((ANSWERS, DRAIN), NodeDraining, {"reason": "disk"}),
        ((NOTHING, DRAIN), NodeDraining, {"reason": "disk"}),
        ((ANSWERS, RETIRE), NodeNotFound, {}),
        ((ANSWERS, NoteElsewhere(node=NODE, host="host-2")), NodeUnavailable, {"state": "unknown"}),
        ((ANSWERS,), None, {}),
        ((ANSWERS, FAILS), None, {}),
        ((ANSWERS, NOTHING), None, {}),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_begin_is_refused_or_granted_by_the_state_of_its_node(commands, error, facts, named):
    host = lived(*commands)
    before = snapshot(host.nodes[NODE])
    decision = play(host, claim(node=NODE) if named else claim())
    if error is None:
        assert decision.reply["state"] == "begun"
    else:
        assert type(decision.error) is error
        assert (decision.error.kwargs["host"], decision.events) == (HOST, ())
        assert {name: decision.error.kwargs[name] for name in facts} == facts
        assert snapshot(host.nodes[NODE]) == before


@pytest.mark.behaviour("node-states", "disabled-does-not-block")
def test_an_unsupported_node_grants_a_claim_without_charging_it():
    host = lived(NOTHING)
    decision = play(host, claim())
    assert (decision.reply, happened(decision)) == (None, [ClaimUntracked(at=NOW, instance=instance(1))])
    for command in (FinishClaim(claim_id=uuid(1)), AbortClaim(claim_id=uuid(1))):
        assert (play(host, command).reply, play(host, command).events) == (None, ())
    assert play(host, update(1, vm_state="active")).reply == {"tracked": False, "changed": False}


@pytest.mark.behaviour("node-states")
@pytest.mark.parametrize(
    ("later", "taken"), [(0, True), (STALE_AFTER, True), (STALE_AFTER + 1, False), (10 * STALE_AFTER, False)]
)
def test_a_stale_node_takes_claims_on_its_last_inventory_for_a_while_after_the_first_look_that_failed(later, taken):
    host = lived(ANSWERS)
    play(host, FAILS, NOW)
    play(host, NOTHING, NOW + STALE_AFTER // 2)
    play(host, FAILS, NOW + STALE_AFTER - 1)
    error = play(host, claim(), NOW + later).error
    assert (error is None) is taken
    assert taken or (type(error), error.kwargs["state"]) == (NodeUnavailable, "stale")
    play(host, ANSWERS, NOW + later)
    play(host, FAILS, NOW + later)
    assert play(host, claim(2), NOW + later + STALE_AFTER).error is None


@pytest.mark.behaviour("node-states")
@pytest.mark.parametrize(
    "commands",
    [(FAILS,), (NOTHING,), (UNLISTED,), (DRAIN,), (NoteElsewhere(node=NODE, host="host-2"),), (DRAIN, FAILS, UNLISTED)],
)
def test_in_every_state_what_is_charged_can_be_repeated_renewed_finished_aborted_updated_and_released(commands):
    host = lived(ANSWERS)
    for number in range(1, 6):
        play(host, begin(number))
    for command in commands:
        play(host, command)
    later = NOW + 10 * STALE_AFTER
    assert play(host, claim(1, node=NODE), later).reply["state"] == "begun"
    assert play(host, claim(1), later).reply["state"] == "begun"
    assert play(host, RenewClaim(claim_id=claim_id(host, 1), timeout=10**12), later).reply is not None
    assert play(host, FinishClaim(claim_id=claim_id(host, 2))).reply["state"] == "finished"
    assert play(host, AbortClaim(claim_id=uuid(3))).reply["state"] == "aborted"
    assert play(host, update(4, vm_state="deleted")).reply == {"tracked": True, "changed": True}
    assert play(host, ReleaseAllocation(uuid=uuid(5), reason="lost", released_by="u")).reply is not None
    assert len(play(host, ExpireClaims(node=NODE, release=True), NOW + 2 * 10**12).events) == 1
    assert list(host.nodes[NODE].allocations) == [uuid(2)]


@pytest.mark.behaviour("node-states")
def test_a_node_with_charges_cannot_be_retired_and_the_refusal_names_them():
    host = lived(ANSWERS, begin(2), begin(1))
    error = play(host, RETIRE).error
    assert type(error) is NodeBusy
    assert error.kwargs == {"host": HOST, "node": NODE, "instances": [uuid(1), uuid(2)]}
    assert shown(host)[0] == "open"


@pytest.mark.behaviour("node-states")
def test_a_retired_node_is_in_no_answer_and_only_undrain_finds_it():
    host = lived(ANSWERS, RETIRE)
    for command in (claim(node=NODE), DRAIN, RETIRE, update(1, node=NODE)):
        assert type(planned(host, command).error) is NodeNotFound
    assert list(kept(read([host], ListNodes(), NOW))) == []
    assert list(kept(read([host], ListClaims(node=None), NOW))) == []
    assert kept(read([host], GetUsage(project_id=None), NOW)) == {}
    for name in (NODE, None):
        with pytest.raises(NodeNotFound):
            read([host], GetNode(node=name), NOW)
    assert type(planned(host, UndrainNode(node="elsewhere")).error) is NodeNotFound
    play(host, UNDRAIN)
    assert read([host], GetNode(node=None), NOW)["state"] == "open"


@pytest.mark.behaviour("node-states")
@pytest.mark.parametrize("command", [ReportNode, DrainNode, RetireNode, NoteElsewhere, ExpireClaims, UndrainNode])
def test_a_command_about_a_node_that_does_not_exist_is_node_not_found(command):
    more = {
        ReportNode: {"inventory": None},
        DrainNode: {"reason": "x"},
        RetireNode: {"reason": "x"},
        NoteElsewhere: {"host": None},
    }
    decision = planned(new_host(), command(node="elsewhere", **more.get(command, {})))
    assert (type(decision.error), decision.events) == (NodeNotFound, ())


@pytest.mark.behaviour("node-states")
def test_a_list_of_nodes_makes_exactly_the_others_missing_in_one_decision():
    host = host_ledger(nodes=3)
    decision = play(host, ReportList(nodes=frozenset({"node-2", "node-9"})))
    assert [(ledger.name, type(event)) for ledger, event in decision.events] == [
        ("node-1", NodeUpdated),
        ("node-3", NodeUpdated),
    ]
    assert [ledger.life.state for ledger in host] == ["missing", "open", "missing"]


@pytest.mark.behaviour("node-states")
def test_in_the_library_a_driver_that_answers_nothing_makes_a_node_unsupported_whatever_it_had():
    host = lived(ANSWERS, ReportNode(node=NODE, inventory=None, keeps_inventory=False))
    assert (shown(host)[0], host.nodes[NODE].inventory) == ("unsupported", None)
    host = lived(ANSWERS, ReportNode(node=NODE, inventory=None, failure="x", keeps_inventory=False))
    assert (shown(host)[0], host.nodes[NODE].inventory) == ("stale", inventory())


def several(*states):
    """A host with a node in each of these states; a state in capitals: the node is charged."""
    host = host_ledger(nodes=len(states))
    listed = set(host.nodes)
    for number, name in enumerate(states, 1):
        node = f"node-{number}"
        if name.isupper():
            play(host, begin(number, node=node))
        match name.lower():
            case "unsupported":
                play(host, ReportNode(node=node, inventory=None, keeps_inventory=False))
            case "stale":
                play(host, ReportNode(node=node, inventory=None))
            case "draining":
                play(host, DrainNode(node=node, reason="x"))
            case "retired":
                play(host, RetireNode(node=node, reason="x"))
            case "missing":
                listed.remove(node)
    play(host, ReportList(nodes=frozenset(listed)))
    assert [ledger.life.state for ledger in host] == [name.lower() for name in states]
    return host


@pytest.mark.behaviour("node-states")
@pytest.mark.parametrize(
    ("states", "found"),
    [
        (("open", "MISSING"), "node-1"),
        (("missing", "open"), "node-2"),
        (("retired", "open"), "node-2"),
        (("unsupported", "open"), "node-2"),
        (("unsupported", "stale"), "node-2"),
        (("unsupported", "retired"), "node-1"),
        (("MISSING", "retired"), "node-1"),
        (("open", "stale"), InvalidInput),
        (("open", "draining"), InvalidInput),
        (("draining", "missing"), "node-1"),
        (("unsupported", "unsupported"), InvalidInput),
        (("missing",), "node-1"),
        (("missing", "retired"), "node-1"),
        (("missing", "missing"), InvalidInput),
        (("retired",), NodeNotFound),
    ],
)
def test_a_begin_that_names_no_node_means_the_only_one_that_may_take_claims(states, found):
    decision = planned(several(*states), claim(9))
    if isinstance(found, str):
        assert (decision.error.kwargs["node"] if decision.error else decision.node.name) == found
    else:
        assert type(decision.error) is found


@pytest.mark.behaviour("node-states")
@pytest.mark.parametrize(
    ("states", "found"),
    [
        (("open", "missing"), "node-1"),
        (("open", "retired"), "node-1"),
        (("missing", "MISSING"), "node-2"),
        (("open", "MISSING"), None),
        (("open", "unsupported"), None),
    ],
)
def test_elsewhere_a_node_that_is_missing_and_empty_or_retired_does_not_count(states, found):
    host = several(*states)
    if found is None:
        with pytest.raises(InvalidInput):
            read([host], GetNode(node=None), NOW)
    else:
        assert read([host], GetNode(node=None), NOW)["node"] == found
