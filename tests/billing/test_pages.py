# SPDX-License-Identifier: Apache-2.0
"""What doc/user/billing-with.md says of Gnocchi and CloudKitty is what Ceilometer does."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.billing.agent import ETC, prefix
from tests.billing.conftest import MakeAgent, MakeStage
from tests.billing.http_server import Posted, StandIn
from tests.billing.stage import TOPIC
from tests.support.doc_pages import DOC, Block, blocks

PAGE = DOC / "user" / "billing-with.md"
PROGRAM = Path(__file__).with_name("gnocchi_definitions.py")
METERS: dict[str, dict[str, Any]] = {
    meter["name"]: meter for meter in yaml.safe_load((ETC / "meters.yaml").read_text(encoding="utf-8"))["metric"]
}
_JOB = "/metrics/job/tracker"
_LINE = re.compile(r'(\w+)\{resource_id="([^"]*)", user_id="([^"]*)", project_id="([^"]*)"\} (-?\d+)')


def block(named: str) -> Any:
    """The YAML block of the page that has this key."""
    [found] = [one for one in map(_read, blocks(PAGE, "yaml")) if named in one]
    return found


def _read(one: Block) -> Any:
    return yaml.safe_load(one.text)


@pytest.fixture
def pushgateway() -> Iterator[StandIn]:
    server = StandIn(f"{_JOB}/resource_id/")
    yield server
    server.close()


def test_the_meters_are_metrics_of_gnocchi_s_instances(tmp_path: Path) -> None:
    packaged = next(prefix().glob("lib/python3.*/site-packages/ceilometer/publisher/data/gnocchi_resources.yaml"))
    definitions, added = yaml.safe_load(packaged.read_text(encoding="utf-8")), block("archive_policies")
    [instance] = [one for one in definitions["resources"] if one["resource_type"] == "instance"]
    [more] = added["resources"]
    instance["metrics"].update(more["metrics"])
    definitions["archive_policies"] += added["archive_policies"]
    merged = tmp_path / "gnocchi_resources.yaml"
    merged.write_text(yaml.safe_dump(definitions), encoding="utf-8")
    metadata = dict.fromkeys(METERS["tracker.vcpu"]["metadata"], "text")

    done = subprocess.run(
        [prefix() / "bin" / "python", PROGRAM, merged],
        input=json.dumps(metadata),
        capture_output=True,
        text=True,
        check=True,
    )

    said = json.loads(done.stdout)
    assert said["policies"].items() >= dict.fromkeys(METERS.keys() - {"tracker.period.exists"}, "tracker").items()
    # What Gnocchi requires of an instance.
    assert said["attributes"].keys() >= {"host", "display_name", "flavor_id", "flavor_name"}


def test_a_pushgateway_has_what_each_instance_is_charged(
    make_stage: MakeStage, make_agent: MakeAgent, pushgateway: StandIn
) -> None:
    stage = make_stage("classic")
    agent = make_agent(stage, TOPIC, publisher=f"prometheus://{pushgateway.address}{_JOB}")
    published = stage.play()
    agent.wait_for_events(len(published))
    agent.stop()

    last: dict[tuple[str, str], tuple[int, str]] = {}
    for name, resource, _user, project, value in _pushed(pushgateway.posted):
        last[name, resource] = int(value), project
    charged: dict[tuple[str, str], tuple[int, str]] = {}
    for sample in agent.samples():
        if sample["type"] == "gauge":
            key = sample["name"].replace(".", "_"), sample["resource_id"]
            charged[key] = sample["volume"], sample["project_id"]
    assert {volume for volume, _ in charged.values()} > {0}
    assert {key: value for key, value in last.items() if key in charged} == charged
    assert block("metrics")["metrics"].keys() <= {name for name, _ in charged}


def _pushed(posted: list[Posted]) -> Iterator[tuple[str, ...]]:
    for request in posted:
        for line in request.body.decode().splitlines():
            if not line.startswith("#"):
                found = _LINE.fullmatch(line)
                assert found is not None, line
                yield found.groups()
