# SPDX-License-Identifier: Apache-2.0
"""Which command prints what with --format json, and the JSON Schema of it."""

from __future__ import annotations

from typing import Any

import msgspec

from tracker_worker.cli.schemas import types as own
from tracker_worker.client import types as api

OUTPUTS: dict[str, tuple[Any, ...]] = {
    "demo": (own.Demo,),
    "node list": (list[api.Node],),
    "node show": (api.Node,),
    "node drain": (api.Node,),
    "node undrain": (api.Node,),
    "node retire": (api.Node,),
    "node rename": (api.Node,),
    "node move": (api.Node,),
    "host list": (list[own.Host],),
    "claim list": (list[api.Claim],),
    "claim begin": (api.Claim, None),
    "claim finish": (api.Claim,),
    "claim abort": (api.Claim,),
    "claim renew": (api.Claim,),
    "move list": (list[api.Move],),
    "move show": (api.Move,),
    "move begin": (api.Move, None),
    "move finish": (api.Move,),
    "move confirm": (api.Move,),
    "move revert": (api.Move,),
    "move abort": (api.Move,),
    "move fail": (api.Move,),
    "instance list": (list[api.Allocation],),
    "instance show": (api.Allocation,),
    "instance release": (api.Allocation,),
    "instance adopt": (api.Adoption,),
    "instance compare": (api.Comparison,),
    "history": (list[own.Decision],),
    "check": (list[own.Finding],),
    "usage": (dict[str, own.ProjectUsage],),
    "audit": (list[api.Node], own.Sent),
    "watch": (own.Message, own.CloudEvent),
    "db current": (own.Revisions,),
    "db history": (list[own.History],),
    "db new-history": (own.History,),
    "outbox status": (list[own.Backlog],),
    "outbox replay": (own.Replayed,),
    "outbox skip": (own.Skipped,),
    "dead-letter list": (list[own.DeadLetter],),
    "dead-letter show": (own.WholeDeadLetter,),
    "dead-letter replay": (list[own.ReplayOutcome],),
    "dead-letter purge": (own.Removed,),
}
"""Every command that has --format, by its words, with the types of its results; `watch` prints one for each line."""


def schema_of(command: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what a command prints, which may be an error. Raises KeyError: it prints no JSON."""
    results, definitions = msgspec.json.schema_components([*OUTPUTS[command], own.Error], ref_template="#/$defs/{name}")
    for definition in definitions.values():
        if "description" in definition:
            definition["description"] = " ".join(definition["description"].replace("``", "").split())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"tracker-worker {command} --format json",
        "anyOf": list(results),
        "$defs": definitions,
    }
