# SPDX-License-Identifier: Apache-2.0
"""A naive ledger of one database: dictionaries of what is charged; everything else is counted anew each time.

It shares no code with the package. Its methods take callers' input and return the expected outcome: the kinds of the events of
each node, by host and name, and the essence of the reply: a text for a claim's state, the class name of an error, a list of
shortfalls, or the reply itself.
"""

from __future__ import annotations

import math
from typing import Any

from tests.model.naive_node import GPU_RATIO, GPU_STEP, LIMITS, UNBUILT, Charge, Fields, Node, vector
from tests.model.oracle_nodes import NodeOracle, Outcome

STALE_AFTER = 30
MEMORY = 25
"""How long a stale node takes claims, and how long a deletion is remembered."""


class Refused(Exception):
    """The class name of the error that a command gets."""


class Oracle(NodeOracle):
    def claim(self, host: str, name: str) -> tuple[Node, Charge] | None:
        """The charge whose claim has this id, or else that of the instance with this uuid."""
        everything = [(node, charge) for node in self.hosts[host].values() for charge in node.held.values()]
        by_id = [pair for pair in everything if pair[1].claim_id == name]
        by_uuid = [pair for pair in everything if pair[1].uuid == name]
        return next(iter(by_id + by_uuid), None)

    def taken(self, host: str, ask: Fields) -> bool:
        """Whether another charge has the name that this claim chooses, or its instance's uuid as the id of its claim."""
        ids = {charge.claim_id for node in self.hosts[host].values() for charge in node.held.values()}
        return ask["uuid"] in ids or (ask["claim_id"] is not None and self.claim(host, ask["claim_id"]) is not None)

    # --- claims ------------------------------------------------------------------------------------------------------

    def fit(
        self, host: str, ask: Fields, now: int, beside: dict[str, Fields] | None = None
    ) -> tuple[Node, str, list[Any]]:
        """The node, what becomes of the claim (held, untracked, lacks, fits), and the shortfalls. Raises Refused."""
        uuid = ask["uuid"]
        holder = self.where(host, uuid)
        node = holder if ask["node"] is None and holder is not None else self._place(host, ask["node"])
        if ask["vm_state"] == "deleted":
            raise Refused("InvalidInput")
        if holder is not None:
            if holder is not node or holder.held[uuid].vector != vector(ask):
                raise Refused("ClaimConflict")
            return node, "held", []
        state = node.state()
        if state == "unsupported":
            return node, "untracked", []
        if state == "draining":
            raise Refused("NodeDraining")
        if state in ("missing", "unknown") or (state == "stale" and now > node.silent_since + STALE_AFTER):
            raise Refused("NodeUnavailable")
        gone = [at for other in self.hosts[host].values() for known, at in other.deletions.items() if known == uuid]
        if gone and now <= max(gone) + MEMORY:
            raise Refused("ClaimConflict")
        if self.taken(host, ask):
            raise Refused("ClaimConflict")
        lacks = self._lacks(node, ask, (beside or {}).get(node.name, {}))
        return node, "lacks" if lacks else "fits", lacks

    def _place(self, host: str, name: str | None) -> Node:
        nodes = [node for node in self.hosts[host].values() if not node.retired]
        if name is not None:
            nodes = [node for node in nodes if node.name == name]
        else:
            there = [node for node in nodes if node.listed or node.held]
            takes = [node for node in there if node.state() in ("open", "stale", "draining")]
            nodes = takes or there or nodes
        if not nodes:
            raise Refused("NodeNotFound")
        if len(nodes) > 1:
            raise Refused("InvalidInput")
        return nodes[0]

    @staticmethod
    def _lacks(node: Node, ask: Fields, beside: Fields) -> list[Any]:
        assert node.total is not None
        limits = dict(node.total) if ask["capacity"] else {}
        if "VGPU" in limits:
            limits["VGPU"] = math.floor(limits["VGPU"] * GPU_RATIO)
        limits |= {name: ask["limits"][key] for name, key in LIMITS.items() if ask["limits"].get(key) is not None}
        used = {name: node.used().get(name, 0) + beside.get(name, 0) for name in LIMITS}
        lacks = []
        for name, wanted in vector(ask).items():
            limit, reason = math.floor(limits.get(name, 2**62)), ""
            if name == "VGPU" and name not in node.total:
                limit = 0
            elif name == "VGPU" and wanted > node.total[name]:
                reason = f"must be at most {node.total[name]} (max_unit)"
            elif name == "VGPU" and wanted % GPU_STEP:
                reason = f"must be a multiple of {GPU_STEP} (step_size)"
            if wanted > 0 and (reason or used[name] + wanted > limit):
                lack = {"resource": name, "requested": wanted, "used": used[name], "limit": limit}
                lacks.append({**lack, "reason": reason} if reason else lack)
        return lacks

    def begin(self, host: str, ask: Fields, now: int, claim_id: str) -> Outcome:
        """``claim_id``: the id that a new claim gets."""
        try:
            node, what, lacks = self.fit(host, ask, now)
        except Refused as refused:
            return [], str(refused)
        if what == "held":
            return [], node.held[ask["uuid"]].state
        if what == "untracked":
            return [(node.place, "ClaimUntracked")], None
        if what == "lacks":
            return [(node.place, "ClaimRejected")], lacks
        self._charge(node, ask, now, claim_id)
        return [(node.place, "ClaimBegun")], "begun"

    @staticmethod
    def _charge(node: Node, ask: Fields, now: int, claim_id: str) -> None:
        due = node.time(now) + ask["timeout"]
        node.held[ask["uuid"]] = Charge(
            ask["uuid"], claim_id, vector(ask), ask["project_id"], ask["vm_state"], due, ask["on_expiry"]
        )
        node.deletions.pop(ask["uuid"], None)

    def begin_all(self, host: str, asked: list[Fields], now: int, claim_ids: dict[str, str]) -> Outcome:
        """``claim_ids``: uuid -> the id that a new claim of it gets."""
        beside: dict[str, Fields] = {}
        fits, happened, lacking, all_lacks, states = [], [], [], [], []
        chosen: set[str] = set()
        for index, ask in enumerate(asked):
            if ask["uuid"] in {other["uuid"] for other in asked[:index]}:
                return [], "InvalidInput"
            try:
                node, what, lacks = self.fit(host, ask, now, beside)
            except Refused as refused:
                return [], str(refused)
            if what == "lacks":
                lacking.append((node.place, "ClaimRejected"))
                all_lacks += [{**lack, "instance_uuid": ask["uuid"], "node": node.name} for lack in lacks]
                continue
            if what == "fits":
                if not chosen.isdisjoint({ask["claim_id"], ask["uuid"]}):
                    return [], "ClaimConflict"
                chosen |= {ask["claim_id"], ask["uuid"]} - {None}
                sums = beside.setdefault(node.name, dict.fromkeys(LIMITS, 0))
                for name, amount in vector(ask).items():
                    sums[name] += amount
                fits.append((node, ask))
                happened.append((node.place, "ClaimBegun"))
            elif what == "untracked":
                happened.append((node.place, "ClaimUntracked"))
            states.append({"held": lambda n=node, a=ask: n.held[a["uuid"]].state, "fits": "begun"}.get(what))
        if lacking:
            return lacking, all_lacks
        for node, ask in fits:
            self._charge(node, ask, now, claim_ids[ask["uuid"]])
        return happened, [state() if callable(state) else state for state in states]

    def finish(self, host: str, name: str) -> Outcome:
        found = self.claim(host, name)
        if found is None or found[1].state != "begun":
            return [], None
        found[1].state = "finished"
        return [(found[0].place, "ClaimFinished")], "finished"

    def abort(self, host: str, name: str) -> Outcome:
        found = self.claim(host, name)
        if found is None:
            return [], None
        node, charge = found
        if charge.state != "begun" and not (charge.state == "expired" and not charge.built):
            return [], None
        del node.held[charge.uuid]
        return [(node.place, "ClaimAborted")], "aborted"

    def renew(self, host: str, name: str, timeout: int, now: int) -> Outcome:
        found = self.claim(host, name)
        if found is None or found[1].state != "begun":
            return [], None
        node, charge = found
        if charge.due >= node.time(now) + timeout:
            return [], "begun"
        charge.due = node.time(now) + timeout
        return [(node.place, "ClaimRenewed")], "begun"

    def expire(self, host: str, name: str, release: bool, now: int) -> Outcome:
        node = self.hosts[host][name]
        due = [charge for charge in node.held.values() if charge.state == "begun" and now > charge.due]
        for charge in due:
            if not charge.built and (release if charge.on_expiry is None else charge.on_expiry == "release"):
                del node.held[charge.uuid]
            charge.state = "expired"
        return [(node.place, "ClaimExpired")] * len(due), None

    # --- instances ---------------------------------------------------------------------------------------------------

    def update(self, host: str, uuid: str, named: str | None, changes: Fields, now: int) -> Outcome:
        node = self.where(host, uuid)
        if node is None:
            return self._untracked(host, uuid, named, changes, now)
        if named is not None and named != node.name:
            return [], "InstanceElsewhere"
        charge = node.held[uuid]
        state = changes.get("vm_state", charge.vm_state)
        if state == "deleted" or (state == "shelved_offloaded" and charge.vm_state != state):
            del node.held[uuid]
            return [(node.place, "UsageReleased")], {"tracked": True, "changed": True}
        proof = changes.get("vm_state") not in UNBUILT
        after = {**charge.vector, **{name: changes[key] for name, key in (("VCPU", "vcpus"),) if key in changes}}
        if "resources" in changes:
            after.pop("VGPU", None)
            after |= {name: amount for name, amount in (changes["resources"] or {}).items() if amount}
        owner = changes.get("project_id") or charge.project
        if (state, after, owner) == (charge.vm_state, charge.vector, charge.project):
            noted = proof and not charge.built and charge.state in ("begun", "expired")
            charge.built = charge.built or noted
            return ([(node.place, "BuiltNoted")] if noted else []), {"tracked": True, "changed": False}
        charge.vm_state, charge.vector, charge.project = state, after, owner
        charge.built = charge.built or proof
        return [(node.place, "UsageUpdated")], {"tracked": True, "changed": True}

    def _untracked(self, host: str, uuid: str, named: str | None, changes: Fields, now: int) -> Outcome:
        reply = {"tracked": False, "changed": False}
        nodes = [node for node in self.hosts[host].values() if named in (None, node.name)]
        if named is not None and all(node.retired for node in nodes):
            return [], "NodeNotFound"
        if changes.get("vm_state") != "deleted" or not nodes:
            return [], reply
        again = [node for node in self.hosts[host].values() if uuid in node.deletions]
        node = min(again or nodes, key=lambda node: node.number)
        node.deletions[uuid] = node.time(now)
        return [(node.place, "DeletionNoted")], reply

    def adopt(self, host: str, asked: list[Fields], now: int, claim_ids: dict[str, str]) -> Outcome:
        """``claim_ids``: uuid -> the id of what it is charged for. The reply has the codes of the refusals."""
        happened = []
        reply: dict[str, list[Any]] = {"adopted": [], "already": [], "refused": []}
        for ask in asked:
            uuid = ask["uuid"]
            holder = self.where(host, uuid)
            try:
                node = holder if ask["node"] is None and holder is not None else self._place(host, ask["node"])
                if holder is not None and (holder is not node or holder.held[uuid].vector != vector(ask)):
                    raise Refused("ClaimConflict")
                if holder is None:
                    self._check_adoptable(host, node, ask, now)
            except Refused as refused:
                reply["refused"].append((uuid, str(refused)))
                continue
            reply["adopted" if holder is None else "already"].append(uuid)
            if holder is None:
                happened.append((node.place, "UsageAdopted"))
                self._charge(node, {**ask, "timeout": 0, "on_expiry": None}, now, claim_ids[uuid])
                node.held[uuid].state, node.held[uuid].built = "finished", True
        return happened, reply

    def _check_adoptable(self, host: str, node: Node, ask: Fields, now: int) -> None:
        uuid = ask["uuid"]
        if ask["vm_state"] in ("deleted", "shelved_offloaded"):
            raise Refused("InvalidInput")
        if node.total is None or node.state() == "unknown":
            raise Refused("NodeUnavailable")
        gone = [at for other in self.hosts[host].values() for known, at in other.deletions.items() if known == uuid]
        if (gone and now <= max(gone) + MEMORY) or self.taken(host, {"uuid": uuid, "claim_id": None}):
            raise Refused("ClaimConflict")

    def release(self, host: str, uuid: str) -> Outcome:
        node = self.where(host, uuid)
        if node is None:
            return [], None
        del node.held[uuid]
        return [(node.place, "UsageReleased")], uuid

    def compare(self, host: str, name: str, uuids: set[str]) -> Outcome:
        node = self.hosts[host][name]
        if node.retired:
            return [], "NodeNotFound"
        building = {charge.uuid for charge in node.held.values() if charge.state == "begun" and not charge.built}
        reply = {
            "charged_not_running": sorted(node.held.keys() - uuids - building),
            "running_not_charged": sorted(uuids - node.held.keys()),
            "building": sorted(building),
        }
        differs = reply["charged_not_running"] or reply["running_not_charged"]
        return ([(node.place, "InstancesDrift")] if differs else []), reply
