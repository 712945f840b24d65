# SPDX-License-Identifier: Apache-2.0
"""The rules of ``[oslo_policy] policy_file``: who may call which RPC methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PREFIX = "tracker:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule that everybody passes unless the policy file says otherwise, and the RPC methods that it is about."""

    description: str
    methods: tuple[str, ...]


RULES: dict[str, Rule] = {
    f"{PREFIX}read": Rule(
        description="Read nodes, claims, allocations, usage and notifications, and ask whether a claim would fit.",
        methods=(
            "would_fit",
            "get_node",
            "list_nodes",
            "list_claims",
            "list_allocations",
            "get_allocation",
            "get_usage",
            "get_instances",
            "get_notifications",
        ),
    ),
    f"{PREFIX}claim": Rule(
        description="Begin, renew, finish and abort claims, and take the steps of moves.",
        methods=(
            "begin_resource_claim",
            "begin_resource_claims",
            "finish_resource_claim",
            "abort_resource_claim",
            "renew_resource_claim",
            "begin_move_claim",
            "finish_move",
            "confirm_move",
            "revert_move",
            "abort_move",
            "fail_move",
        ),
    ),
    f"{PREFIX}report": Rule(
        description="Report what runs: states, sizes and ends of instances, and instances that were never claimed. Only these "
        "methods change the project and the user of what a host is charged.",
        methods=("update_usage", "report_instances", "adopt"),
    ),
    f"{PREFIX}administer": Rule(
        description="Have inventories read, and release what an instance is charged.",
        methods=("update_available_resource", "release_allocation"),
    ),
}

_RULE_OF = {method: name for name, rule in RULES.items() for method in rule.methods}
_PING = "oslo_rpc_server_ping"


def rule_of(method: str) -> str | None:
    """The rule of a method of the RPC API; None: everybody may call it, whatever the policy file says."""
    return None if method == _PING else _RULE_OF.get(method, f"{PREFIX}administer")


def list_rules() -> list[Any]:
    """The rules with their defaults, for the tools of oslo.policy (entry point ``oslo.policy.policies``)."""
    from oslo_policy import policy

    return [
        policy.DocumentedRuleDefault(
            name=name,
            check_str="",
            description=rule.description,
            operations=[{"path": method, "method": "RPC"} for method in rule.methods],
        )
        for name, rule in RULES.items()
    ]
