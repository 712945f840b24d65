# SPDX-License-Identifier: Apache-2.0
"""Who may call which RPC methods: the rules of ``[oslo_policy] policy_file``, asked where a request is read.

The rules compare what a request says about its sender, which nobody has verified: the broker's permissions say who may publish
requests at all. oslo.policy takes about 0.1 ms for a check, and a scheduler sends the same words again and again: decisions
are remembered. They depend on nothing else, because rules that ask another server are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from oslo_config import cfg

from tracker_worker.conf.policy_file import PolicyFile, read_policy_file
from tracker_worker.conf.rules import rule_of
from tracker_worker.errors import NotPermitted
from tracker_worker.wire.request import Request

Permit = Callable[[Request, Sequence[str]], None]
Value = str | bool | tuple[str, ...] | None
Owner = tuple[str | None, str | None]

# What rules know of a sender, with the keys of the context that may say it: oslo.context's attributes and their older names.
_ATTRIBUTES = {
    "project_id": ("project_id", "tenant", "project"),
    "user_id": ("user_id", "user"),
    "domain_id": ("domain_id", "domain"),
    "user_domain_id": ("user_domain_id", "user_domain"),
    "project_domain_id": ("project_domain_id", "project_domain"),
    **{
        name: (name,)
        for name in (
            *("project_name", "user_name", "domain_name", "user_domain_name", "project_domain_name"),
            "system_scope",
            *("service_user_id", "service_project_id", "service_user_domain_id", "service_project_domain_id"),
        )
    },
}
_FLAGS = ("is_admin", "is_admin_project")
_LISTS = ("roles", "service_roles")
# The methods whose instances are charged to the sender's project where they name none.
_OWNING = frozenset({"begin_resource_claim", "begin_resource_claims", "begin_move_claim", "would_fit", "adopt"})
# A longer text in a context is no name, and no service has more roles.
_MOST_CHARACTERS = 255
_MOST_ROLES = 100
_MOST_REMEMBERED = 1000
# Longer ones are decided anew each time.
_MOST_CHARACTERS_REMEMBERED = 2000


class Permissions:
    """``permit`` belongs to the thread that reads requests, while another one may call ``reload``."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Raises ConfigurationError: see ``read_policy_file``."""
        self._rules: _Rules | None = None
        self.reload(conf)

    def reload(self, conf: cfg.ConfigOpts) -> None:
        """Read the rules again. Raises ConfigurationError: they are wrong, or their file is gone; the old ones stay."""
        file = read_policy_file(conf, required=self._rules is not None)
        self._rules = None if file is None else _Rules(file)

    @property
    def permit(self) -> Permit | None:
        """Checks a request to these hosts, and raises NotPermitted; None: everybody may call every method."""
        rules = self._rules
        return rules.check if rules is not None and rules.restricted else None


class _Rules:
    """The rules of one file."""

    def __init__(self, file: PolicyFile) -> None:
        self.restricted = file.restricted
        self._enforcer = file.enforcer
        self._decided: dict[tuple[Any, ...], bool] = {}

    def check(self, request: Request, hosts: Sequence[str]) -> None:
        rule = rule_of(request.method)
        if rule not in self.restricted:
            return
        sender = _sender(request.context)
        host = hosts[0] if len(hosts) == 1 else None
        if not all(self._passes(rule, request.method, host, owner, sender) for owner in _owners(request, sender)):
            raise NotPermitted(rule=rule, method=request.method)

    def _passes(self, rule: str, method: str, host: str | None, owner: Owner, sender: tuple[Value, ...]) -> bool:
        key = (rule, method, host, owner, sender)
        passes = self._decided.get(key)
        if passes is None:
            target = {"method": method, "host": host, "project_id": owner[0], "user_id": owner[1]}
            passes = bool(self._enforcer.enforce(rule, _given(target), _given(dict(zip(_KNOWN, sender, strict=True)))))
            if sum(len(value) for value in _texts(sender)) <= _MOST_CHARACTERS_REMEMBERED:
                if len(self._decided) >= _MOST_REMEMBERED:
                    self._decided.clear()
                self._decided[key] = passes
        return passes


_KNOWN = (*_ATTRIBUTES, *_FLAGS, *_LISTS)


def _sender(context: Mapping[str, Any]) -> tuple[Value, ...]:
    """What rules know of the sender, in the order of _KNOWN. A value of a wrong kind counts as missing."""
    found: list[Value] = []
    for spellings in _ATTRIBUTES.values():
        for spelling in spellings:
            value = context.get(spelling)
            if value and _is_name(value):
                found.append(value)
                break
        else:
            found.append(None)
    for name in _FLAGS:
        value = context.get(name)
        found.append(value if isinstance(value, bool) else None)
    for name in _LISTS:
        given = context.get(name)
        found.append(tuple(filter(_is_name, given[:_MOST_ROLES])) if isinstance(given, list) else ())
    return tuple(found)


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= _MOST_CHARACTERS


def _given(values: Mapping[str, Value]) -> dict[str, Any]:
    """The values that there are, with lists as oslo.policy reads them."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None
    }


def _texts(sender: tuple[Value, ...]) -> Iterator[str]:
    for value in sender:
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from value


def _owners(request: Request, sender: tuple[Value, ...]) -> list[Owner]:
    """The different owners, project and user, that the request names; None: it does not say. Of an instance that is to be
    charged the sender is the owner unless it says another one."""
    default = [value if isinstance(value, str) and request.method in _OWNING else None for value in sender[:2]]
    owners: dict[Owner, None] = {}
    for named in _named(request.args):
        project, user = (
            value if value and _is_name(value) else own
            for value, own in zip((named.get("project_id"), named.get("user_id")), default, strict=True)
        )
        owners[project, user] = None
    return list(owners)


def _named(args: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What may name an owner: the instances in the arguments, else the arguments themselves."""
    claims, instances = args.get("claims"), args.get("instances")
    each: list[Any] = [args.get("instance")]
    if isinstance(claims, list):
        each += [claim.get("instance") for claim in claims if isinstance(claim, Mapping)]
    if isinstance(instances, list):
        each += instances
    named = [one for one in each if isinstance(one, Mapping)]
    yield from named or [args]
