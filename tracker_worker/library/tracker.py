# SPDX-License-Identifier: Apache-2.0
"""The resource tracker as a library: in one process, without a bus, on the same ledgers and stores as the worker.

The names and the behaviour are those of the compute resource tracker of 2012, whose manager held one tracker per node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from msgspec.structs import replace
from oslo_config import cfg

from tracker_worker import threads
from tracker_worker.conf.policy import read_policy, register_policy_opts
from tracker_worker.domain import commands
from tracker_worker.domain.adoption import read_adoption
from tracker_worker.domain.allocation import KEEP, RELEASE, Allocation
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import owned, read_changes, read_instance
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import read_amount, read_choice, read_id, read_timeout
from tracker_worker.errors import ComputeResourcesUnavailable, InvalidInput, NodeNotFound
from tracker_worker.ids import canonical
from tracker_worker.inventory.base import InventoryDriver
from tracker_worker.library.claim import Claim, ResourceClaim
from tracker_worker.library.context import Context, facts_of
from tracker_worker.library.fairlock import FairLock
from tracker_worker.library.moves import MovingNode
from tracker_worker.store.base import Store
from tracker_worker.text import printable

LOG = logging.getLogger(__name__)


class ResourceTracker(MovingNode):
    """Keeps the ledger of one node.

    Any thread may call any method. Operations on the node exclude each other and are served in order of arrival; the driver is
    asked outside of this order.

    :param host: the compute host.
    :param driver: the inventory driver, which reports what the node has.
    :param node: the node of that host; None: the driver's only node.
    :param store: the store that keeps the ledger; it must be started, and the host gets its service record there. None: the
        ledger is kept in memory, and notifications, which nobody could read there, are not kept.
    :param conf: the ConfigOpts with the options of ``[tracker]`` and ``[bus] max_field_bytes``, which are registered on it;
        None: the defaults.
    :param clock: gives seconds since the epoch.
    """

    def __init__(
        self,
        host: str,
        driver: InventoryDriver,
        *,
        node: str | None = None,
        store: Store | None = None,
        conf: cfg.ConfigOpts | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._conf = _defaults() if conf is None else conf
        register_policy_opts(self._conf)
        super().__init__(host, node=node, store=store, topic=self._conf.tracker.topic, clock=clock)
        self.driver = driver
        # The driver is asked under this lock alone: never twice at a time, and an older answer never replaces a newer one.
        self._auditing = FairLock()

    # --- claims ------------------------------------------------------------------------------------------------------

    def begin_resource_claim(
        self,
        context: Context,
        instance: MutableMapping[str, Any],
        limits: Mapping[str, float | None] | None = None,
        timeout: float | None = None,
        *,
        claim_id: str | None = None,
        on_expiry: str | None = None,
    ) -> Claim | None:
        """Charge the instance within ``limits`` (ceilings on total usage), and set its host, node and launched_on. The claim
        expires after ``timeout`` seconds; None: as ``[tracker] claim_timeout_seconds`` says. ``on_expiry`` is "keep" or
        "release"; None: as ``[tracker] expired_claims`` says. ``claim_id`` None: a new one is made. An instance that is charged
        already keeps its claim as it was begun.

        Returns None when the instance does not fit, and when the tracker is disabled; in the second case the host is set
        all the same, so that a build is not blocked. (The clients' method of this name raises ComputeResourcesUnavailable
        for an instance that does not fit; so does ``resource_claim`` here, on entry.)

        Raises InvalidInput, ClaimConflict, NodeUnavailable, NodeDraining, StoreUnavailable; nothing has changed then.
        """
        claim, _ = self._begin(context, instance, limits, timeout, claim_id, on_expiry)
        return claim

    def _begin(
        self,
        context: Context,
        instance: Any,
        limits: Mapping[str, float | None] | None,
        timeout: float | None = None,
        claim_id: str | None = None,
        on_expiry: str | None = None,
    ) -> tuple[Claim | None, ComputeResourcesUnavailable | None]:
        policy = self._policy()
        wanted = read_instance(instance, policy.max_field_bytes)
        if not isinstance(instance, MutableMapping):
            raise InvalidInput(field="instance", reason="must be an object whose host can be set")
        wanted = owned(wanted, facts_of(context), required=policy.owner_required)
        within = read_limits(limits)
        lasting = read_timeout("timeout", timeout) or policy.claim_timeout
        chosen = None if claim_id is None else read_id("claim_id", claim_id)
        on_expiry = read_choice("on_expiry", on_expiry, (KEEP, RELEASE))
        if instance.get("host"):
            LOG.warning("instance %s already has the host %s", printable(wanted.uuid), printable(str(instance["host"])))
        with self._lock:
            ledger = self._ledger_locked()
            if ledger is not None:
                command = commands.BeginClaim(
                    instance=wanted,
                    limits=within,
                    timeout=lasting,
                    node=ledger.name,
                    capacity_limits=policy.capacity_limits,
                    claim_id=chosen,
                    on_expiry=on_expiry,
                    stale_after=policy.stale_after,
                    remembers_deletions=policy.deletion_memory,
                )
                [decision] = self._decisions.commit(command)
                if isinstance(decision.error, ComputeResourcesUnavailable):
                    LOG.info("claim of %s refused on %s: %s", printable(wanted.uuid), ledger.name, decision.error)
                    return None, decision.error
                if decision.error is not None:
                    raise decision.error
                # There is no reply when another writer has disabled the node in the meantime.
                if decision.reply is not None:
                    assert decision.node is not None
                    self._place(instance)
                    return Claim.of(decision.node.allocations[wanted.uuid], self._clock), None
            self._place(instance)
            return None, None

    def _place(self, instance: MutableMapping[str, Any]) -> None:
        instance["host"] = instance["launched_on"] = self.host
        if self._node is not None:
            instance["node"] = self._node

    def finish_resource_claim(self, claim: Claim | str | None) -> None:
        """The build succeeded: the claim ends, the instance stays charged. An unknown claim changes nothing."""
        self._end(claim, commands.FinishClaim)

    def abort_resource_claim(
        self, context: Context, claim: Claim | str | None, instance: MutableMapping[str, Any] | None = None
    ) -> None:
        """The build failed: release what the claim was charged, and clear host, node and launched_on of ``instance``, if it is
        given, so that no later audit charges it again. An unknown claim changes nothing."""
        ended = self._end(claim, commands.AbortClaim)
        if ended and instance is not None:
            instance["host"] = instance["launched_on"] = instance["node"] = None

    def renew_resource_claim(self, claim: Claim | str | None, timeout: float | None = None) -> Claim | None:
        """The build takes longer: the claim expires ``timeout`` seconds from now (None: as ``[tracker] claim_timeout_seconds``
        says), but never earlier than it would have. Returns the renewed claim; None: the claim is unknown.

        Raises InvalidInput, StoreUnavailable; nothing has changed then."""
        lasting = read_timeout("timeout", timeout) or self._policy().claim_timeout
        named = _id_of(claim)
        with self._lock:
            held = self._begun_locked(named)
            if held is not None:
                [decision] = self._decisions.commit(commands.RenewClaim(claim_id=held.claim_id, timeout=lasting))
                if decision.reply is not None:
                    assert decision.node is not None
                    return Claim.of(decision.node.allocations[held.uuid], self._clock)
        self._log_unknown(named)
        return None

    def _end(self, claim: Claim | str | None, command: type[commands.FinishClaim] | type[commands.AbortClaim]) -> bool:
        named = _id_of(claim)
        with self._lock:
            held = self._begun_locked(named)
            if held is not None and self._decisions.commit(command(claim_id=held.claim_id))[0].reply is not None:
                return True
        self._log_unknown(named)
        return False

    def _begun_locked(self, named: str | None) -> Allocation | None:
        """What the claim that is begun and has this id, or is that of the instance with this uuid, was charged. A claim of
        another node of the host is unknown here: it belongs to that node's tracker."""
        ledger = self._ledger_locked()
        if named is None or ledger is None:
            return None
        uuid = ledger.claims.get(named, named)
        return ledger.allocations[uuid] if uuid in ledger.begun else None

    def _log_unknown(self, named: str | None) -> None:
        if named is not None and not self.disabled:
            LOG.info("claim %s is unknown: finished, aborted or expired", printable(named))

    def resource_claim(
        self,
        context: Context,
        instance: MutableMapping[str, Any] | None = None,
        limits: Mapping[str, float | None] | None = None,
        *,
        memory_mb: int = 0,
        disk_gb: int = 0,
        vcpus: int = 0,
    ) -> ResourceClaim:
        """A claim as a context manager. The claim is begun by this call, not on entry. Without an instance it is a claim of
        these sizes under a generated id."""
        if instance is None:
            sizes = {"memory_mb": memory_mb, "root_gb": disk_gb, "vcpus": vcpus}
            for name, value in (("memory_mb", memory_mb), ("disk_gb", disk_gb), ("vcpus", vcpus)):
                read_amount(name, value)
            instance = {"uuid": str(threads.new_uuid()), "ephemeral_gb": 0, **sizes}
            claim, refusal = self._begin(context, instance, limits, claim_id=instance["uuid"])
        else:
            claim, refusal = self._begin(context, instance, limits)
        return ResourceClaim(self, context, instance, claim, refusal)

    # --- usage -------------------------------------------------------------------------------------------------------

    def update_usage(self, context: Context, instance: Mapping[str, Any]) -> None:
        """Report new states, sizes and facts of an instance; the vm state ``deleted`` releases it. An update of an instance
        that is not tracked is counted and otherwise ignored."""
        changes = read_changes(instance, self._policy().max_field_bytes)
        with self._lock:
            ledger = self._ledger_locked()
            if ledger is None:
                return
            # An instance of another node of the host is not tracked here: it belongs to that node's tracker.
            if changes["uuid"] not in ledger.allocations:
                self._ignored_updates += 1
                return
            command = commands.UpdateUsage(uuid=changes["uuid"], changes=changes)
            [decision] = self._decisions.commit(command)
            if decision.error is not None:
                raise decision.error
            self._ignored_updates += not decision.reply["tracked"]

    def adopt(self, context: Context, instances: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Charge at most 1000 instances that run already and were never claimed, whatever the limits. Each is adopted or
        refused by itself; one that is charged already, exactly so, changes nothing.

        Returns the uuids of those that are ``adopted`` and ``already`` charged, and those that are ``refused``, each with
        instance_uuid, code and message. A disabled tracker adopts nothing and returns empty lists.

        Raises InvalidInput: they are too many, or one of them has no uuid; StoreUnavailable. Nothing has changed then."""
        command = read_adoption(instances, facts_of(context), self._policy())
        with self._lock:
            ledger = self._ledger_locked()
            if ledger is None:
                return {"adopted": [], "already": [], "refused": []}
            entries = tuple(replace(entry, node=entry.node or ledger.name) for entry in command.entries)
            [decision] = self._decisions.commit(replace(command, entries=entries))
            answer: dict[str, list[Any]] = decision.reply
            return answer

    def update_available_resource(self, context: Context) -> None:
        """The audit: ask the driver, expire overdue claims, and take usage from the instances that are charged.

        Raises any exception of the driver; InvalidInput: the driver left out keys, all of which are named, or the node has
        to be named; NodeNotFound: the driver does not have the node; StoreUnavailable. Nothing has changed then."""
        with self._auditing:
            policy = self._policy()
            node = self._listed_node()
            inventory = read_inventory(self.driver.get_available_resource(node), policy.reserved)
            with self._lock:
                if self._decisions.host() is None:
                    LOG.warning("host %s has no service record: its tracker stays disabled", self.host)
                    return
                if self._decisions.ledger(node) is None:
                    if inventory is None:
                        return
                    self._decisions.create_node(node)
                for decision in self._decisions.commit(
                    policy.expire(node),
                    commands.ReportNode(node=node, inventory=inventory, keeps_inventory=False),
                ):
                    if decision.error is not None:
                        raise decision.error
                self._node = node
                self._audited = True

    def _listed_node(self) -> str:
        nodes = list(self.driver.get_available_nodes())
        if self._node is None and len(nodes) > 1:
            raise InvalidInput(
                field="node", reason=f"must name a node: the driver of host {self.host} has {len(nodes)}"
            )
        if not nodes or self._node not in (None, *nodes):
            raise NodeNotFound(host=self.host, node=self._node)
        return self._node or nodes[0]

    # --- options ----------------------------------------------------------------------------------------------------

    def _policy(self) -> Policy:
        return read_policy(self._conf)


def _defaults() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([], project="tracker-worker", default_config_files=[], default_config_dirs=[], use_env=False)
    return conf


def _id_of(claim: Claim | str | None) -> str | None:
    return claim.claim_id if isinstance(claim, Claim) else None if claim is None else canonical(claim)
