# SPDX-License-Identifier: Apache-2.0
"""``[oslo_policy] policy_file`` -> rules that can be asked. oslo.policy is imported only if there is such a file."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from oslo_config import cfg

from tracker_worker.conf.oslo_policy import GROUP
from tracker_worker.conf.reading import is_set
from tracker_worker.conf.rules import PREFIX, RULES
from tracker_worker.errors import ConfigurationError
from tracker_worker.text import printable

# These checks ask another server, while every later request of the worker waits.
_REMOTE = ("http", "https")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """``enforcer`` is an ``oslo_policy.policy.Enforcer``, which reads nothing any more; ``restricted`` are the rules that not
    everybody passes."""

    path: str
    enforcer: Any
    restricted: frozenset[str]


def read_policy_file(conf: cfg.ConfigOpts, *, required: bool = False) -> PolicyFile | None:
    """The rules of the policy file; None: there is no such file and the option has its default, or the option is empty.

    Raises ConfigurationError: the file cannot be read, a rule cannot be understood, or there is no file although the option
    names one, or one is ``required``, because there was one.
    """
    name = conf.oslo_policy.policy_file
    found = conf.find_file(name) if name else None
    if found is None:
        if name and (required or is_set(conf, GROUP, "policy_file")):
            raise ConfigurationError(f"[oslo_policy] policy_file {name}: there is no such file")
        return None
    where = f"[oslo_policy] policy_file {found}"
    return _parsed(found, where, _texts(found, where))


def _texts(path: str, where: str) -> dict[str, str]:
    """The text of each rule in the file. Raises ConfigurationError."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        raise ConfigurationError(f"{where} is no YAML{line}: {getattr(error, 'problem', None) or error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{where} must have a rule on each line, such as '{PREFIX}read: role:reader'")
    for name, text in content.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ConfigurationError(f"{where}: rule {printable(str(name))} must be a text, such as 'role:reader'")
        if name.startswith(PREFIX) and name not in RULES:
            near = difflib.get_close_matches(name, RULES, 1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(RULES)}"
            raise ConfigurationError(f"{where}: there is no rule {printable(name)}: {known}")
    return content


def _parsed(path: str, where: str, texts: dict[str, str]) -> PolicyFile:
    from oslo_policy import policy

    own = cfg.ConfigOpts()  # of oslo.policy's options a worker has the file alone
    own([], default_config_files=[], default_config_dirs=[], use_env=False)
    checks: dict[str, Any] = {}
    for name, text in {**dict.fromkeys(RULES, ""), **texts}.items():
        with _said() as said:
            checks.update(policy.Rules.from_dict({name: text}))
        if said:
            raise ConfigurationError(f"{where}: rule {printable(name)} cannot be understood: {printable(text)}")
        if any(kind in _REMOTE for kind in _kinds(checks[name])):
            raise ConfigurationError(
                f"{where}: rule {printable(name)} asks another server, for which every request would have to wait"
            )
    enforcer = policy.Enforcer(own, rules=checks, use_conf=False)
    with _said() as said:
        right = enforcer.check_rules()
    if not right:
        raise ConfigurationError(f"{where}: {' '.join(record.getMessage() for record in said)}")
    everybody = type(policy.Rules.from_dict({"": ""})[""])
    return PolicyFile(
        path=path,
        enforcer=enforcer,
        restricted=frozenset(name for name in RULES if not isinstance(checks[name], everybody)),
    )


def _kinds(check: Any) -> Iterator[str]:
    """The kinds of the checks of which a rule consists: that of ``role:admin`` is ``role``."""
    waiting = [check]
    while waiting:
        one = waiting.pop()
        waiting += [*getattr(one, "rules", ()), *filter(None, [getattr(one, "rule", None)])]
        if isinstance(kind := getattr(one, "kind", None), str):
            yield kind


@contextmanager
def _said() -> Iterator[list[logging.LogRecord]]:
    """What oslo.policy logs in the block, which is not logged. It logs what it does not understand, and goes on."""
    records: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                records.append(record)

    logger, keeper = logging.getLogger("oslo_policy"), Keeper()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(keeper)
    try:
        yield records
    finally:
        logger.removeHandler(keeper)
        logger.propagate = propagated
