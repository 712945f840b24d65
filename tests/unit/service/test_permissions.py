# SPDX-License-Identifier: Apache-2.0
"""The rules of the policy file, asked for requests: who passes, what a refusal says, and what it costs where there are none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import instance_dict
from tests.support.methods import VALID
from tests.unit.conf.test_policy_file import configuration
from tracker_worker.conf.rules import RULES
from tracker_worker.errors import ConfigurationError, NotPermitted
from tracker_worker.service.requests import permissions
from tracker_worker.service.requests.permissions import Permissions
from tracker_worker.wire.request import Request

ADA = {"user_id": "ada", "project_id": "physics", "roles": ["Member", "scheduler"], "request_id": "req-1"}
METHOD_OF = {name: rule.methods[0] for name, rule in RULES.items()}


class Policy:
    """A policy file, and who may do what by it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "policy.yaml"
        self.conf = configuration(directory)

    def write(self, **rules: str) -> Permissions:
        lines = [f'"tracker:{name}": "{check}"\n' for name, check in rules.items()]
        self.path.write_text("".join(lines), encoding="utf-8")
        return Permissions(self.conf)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy(tmp_path)


def request(method: str, context: Mapping[str, Any], args: Mapping[str, Any] | None = None) -> Request:
    return Request(
        method=method,
        args=VALID[method] if args is None else args,
        version="1.1",
        namespace=None,
        context=context,
        unique_id="u-1",
        reply_to=None,
        monitor_seconds=None,
    )


def permits(
    given: Permissions,
    method: str,
    context: Mapping[str, Any] = ADA,
    args: Mapping[str, Any] | None = None,
    hosts: tuple[str, ...] = ("h1",),
) -> bool:
    assert given.permit is not None
    try:
        given.permit(request(method, context, args), hosts)
    except NotPermitted:
        return False
    return True


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_about_its_own_methods(policy: Policy, rule: str) -> None:
    given = policy.write(**{rule.removeprefix("tracker:"): "!"})
    assert given.permit is not None
    for name, each in RULES.items():
        for method in each.methods:
            assert permits(given, method) == (name != rule)
    assert permits(given, "oslo_rpc_server_ping")


def test_a_refusal_has_the_rule_and_the_method(policy: Policy) -> None:
    permit = policy.write(claim="role:admin").permit
    assert permit is not None
    with pytest.raises(NotPermitted) as refused:
        permit(request("begin_resource_claim", ADA), ["h1"])
    assert refused.value.code == "not_permitted"
    assert refused.value.kwargs == {"rule": "tracker:claim", "method": "begin_resource_claim"}
    assert str(refused.value) == "The rule tracker:claim does not permit begin_resource_claim"


@pytest.mark.parametrize(
    ("check", "context", "passes"),
    [
        ("role:scheduler", ADA, True),
        ("role:SCHEDULER", ADA, True),
        ("role:member", ADA, True),
        ("role:admin", ADA, False),
        ("role:admin", {}, False),
        ("not role:admin", {}, True),
        ("project_id:physics", ADA, True),
        ("project_id:physics", {"tenant": "physics"}, True),
        ("project_id:physics", {"project_id": "chemistry", "tenant": "physics"}, False),
        ("user_id:ada", {"user": "ada"}, True),
        ("user_id:ada", {"user_id": "eve"}, False),
        ("user_domain_id:d", {"user_domain": "d"}, True),
        ("system_scope:all", {"system_scope": "all"}, True),
        ("system:all", {"system_scope": "all"}, True),
        ("is_admin:True", {"is_admin": True}, True),
        ("is_admin:True", {"is_admin": 1}, False),
        ("service_roles:service", {"service_roles": ["service"]}, True),
        ("role:a or project_id:p and not user_id:x", {"project_id": "p", "user_id": "x"}, False),
        # What no client of oslo.messaging sends.
        ("role:scheduler", {"roles": "scheduler"}, False),
        ("role:scheduler", {"roles": [7, None, {"a": 1}, "scheduler"]}, True),
        ("role:scheduler", {"roles": {"scheduler": 1}}, False),
        ("role:last", {"roles": ["x"] * 5000 + ["last"]}, False),
        ("project_id:physics", {"project_id": ["physics"]}, False),
        ("project_id:1", {"project_id": 1}, False),
        ("user_id:%(user_id)s", {}, False),
    ],
)
def test_a_rule_compares_what_the_context_says(
    policy: Policy, check: str, context: dict[str, Any], passes: bool
) -> None:
    given = policy.write(claim=check)
    assert [permits(given, "finish_resource_claim", context) for _ in range(2)] == [passes, passes]


@pytest.mark.parametrize(
    ("method", "args", "passes"),
    [
        ("begin_resource_claim", {"instance": {"uuid": "i", "project_id": "physics"}}, True),
        ("begin_resource_claim", {"instance": {"uuid": "i", "project_id": "chemistry"}}, False),
        ("begin_resource_claim", {"instance": {"uuid": "i"}}, True),  # its owner will be the sender
        ("begin_resource_claim", {"instance": "no instance"}, True),
        ("begin_resource_claims", {"claims": [{"instance": {"project_id": "physics"}}] * 2}, True),
        (
            "begin_resource_claims",
            {"claims": [{"instance": {"project_id": "physics"}}, {"instance": {"project_id": "chemistry"}}]},
            False,
        ),
        ("begin_resource_claims", {"claims": [7, {"instance": {"project_id": "physics"}}]}, True),
        ("finish_resource_claim", {"claim_id": "c"}, False),  # it names no owner
    ],
)
def test_a_rule_compares_every_owner_that_a_request_names(
    policy: Policy, method: str, args: dict[str, Any], passes: bool
) -> None:
    given = policy.write(claim="project_id:%(project_id)s")
    assert permits(given, method, ADA, args) == passes


def test_a_rule_compares_the_owners_of_adopted_instances_and_of_what_is_asked(policy: Policy) -> None:
    given = policy.write(report="project_id:%(project_id)s", read="project_id:%(project_id)s")
    mine, other = {"project_id": "physics"}, {"project_id": "chemistry"}
    assert permits(given, "adopt", ADA, {"instances": [mine, {}]})
    assert not permits(given, "adopt", ADA, {"instances": [mine, other]})
    assert permits(given, "update_usage", ADA, {"instance": mine})
    assert not permits(given, "update_usage", ADA, {"instance": {"uuid": "i"}})
    assert permits(given, "get_usage", ADA, mine)
    assert not permits(given, "get_usage", ADA, {})


def test_a_rule_compares_host_and_method(policy: Policy) -> None:
    given = policy.write(read="'h1':%(host)s or 'get_usage':%(method)s")
    assert permits(given, "get_node", hosts=("h1",))
    assert not permits(given, "get_node", hosts=("h2",))
    assert not permits(given, "list_nodes", hosts=("h1", "h2"))
    assert permits(given, "get_usage", hosts=("h1", "h2"))


# --- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [{}, {"read": "@", "claim": ""}])
def test_without_restrictions_there_is_nothing_to_ask(
    policy: Policy, rules: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert policy.write(**rules).permit is None


def test_a_rule_that_everybody_passes_is_not_asked(policy: Policy) -> None:
    given = policy.write(administer="role:admin")
    assert calls_into_oslo_policy(lambda: permits(given, "begin_resource_claim")) == 0
    assert calls_into_oslo_policy(lambda: permits(given, "update_available_resource")) > 0


def test_the_same_question_is_asked_once(policy: Policy) -> None:
    given = policy.write(claim="role:scheduler")
    assert calls_into_oslo_policy(lambda: permits(given, "finish_resource_claim")) > 0
    again = {**ADA, "request_id": "req-2", "timestamp": "later"}
    assert calls_into_oslo_policy(lambda: permits(given, "finish_resource_claim", again)) == 0
    assert calls_into_oslo_policy(lambda: permits(given, "finish_resource_claim", {"roles": ["x"]})) > 0


def calls_into_oslo_policy(action: Callable[[], object]) -> int:
    """How many functions of oslo.policy were called."""
    calls = 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += (
            event == "call" and "oslo_policy" in frame.f_code.co_filename and "tracker" not in frame.f_code.co_filename
        )

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


def test_what_is_remembered_has_a_limit(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permissions, "_MOST_REMEMBERED", 10)
    given = policy.write(claim="role:scheduler")
    assert given._rules is not None
    for number in range(50):
        permits(given, "finish_resource_claim", {"user_id": str(number), "roles": ["x" * 200] * 5})
        permits(given, "finish_resource_claim", {"user_id": str(number), "roles": ["x" * 200] * 50})
    assert 0 < len(given._rules._decided) <= 10
    assert max(len(key[4][-2]) for key in given._rules._decided) == 5


# --- HUP -------------------------------------------------------------------------------------------------


def test_a_reload_takes_over_new_rules_and_keeps_the_old_ones_if_they_are_wrong(policy: Policy) -> None:
    given = policy.write(claim="role:admin")
    assert not permits(given, "finish_resource_claim")
    policy.path.write_text('"tracker:claim": "role:scheduler"\n', encoding="utf-8")
    assert not permits(given, "finish_resource_claim")  # a file that is being written is not read
    given.reload(policy.conf)
    assert permits(given, "finish_resource_claim")

    policy.path.write_text('"tracker:claim": "nonsense"\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="cannot be understood"):
        given.reload(policy.conf)
    assert not permits(given, "finish_resource_claim", {"roles": ["admin"]})
    policy.path.unlink()
    with pytest.raises(ConfigurationError, match="there is no such file"):
        given.reload(policy.conf)
    assert not permits(given, "finish_resource_claim", {"roles": ["admin"]})


def test_an_instance_that_is_no_instance_is_refused_by_its_own_reader(policy: Policy) -> None:
    given = policy.write(claim="role:scheduler")
    for args in ({"instance": 7}, {"claims": "x"}, {"claims": [{"instance": [1]}]}, {"instances": {"a": 1}}):
        assert permits(given, "begin_resource_claim", ADA, args)
    assert permits(given, "begin_resource_claim", ADA, {"instance": instance_dict(1)})
