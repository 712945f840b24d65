# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker instance``: what is charged, and what operators do about it, in the database."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import begin, instance_dict, update, uuid
from tests.support.store import Writer, load, settle
from tests.unit.cli.conftest import Cli
from tracker_worker.cli import instance
from tracker_worker.domain.commands import FinishClaim
from tracker_worker.domain.views import allocation_view, usage_view
from tracker_worker.store.base import Store
from tracker_worker.store.sql.store import SQLStore

PROJECT = instance_dict()["project_id"]
OPERATOR = getpass.getuser()


def views(writer: Writer) -> list[dict[str, Any]]:
    """Every entry, by uuid."""
    held = [allocation_view(ledger, held) for ledger in writer.host for held in ledger.allocations.values()]
    return sorted(held, key=lambda view: str(view["instance_uuid"]))


def published(store: Store) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The event types of a host with their payloads and who asked for them."""
    notifications = [
        notification
        for stream in store.streams("host-1")
        for notification in store.outbox(stream.id, after=0, limit=1000)
    ]
    return [(row.event_type, json.loads(row.payload), json.loads(row.asked)) for row in notifications]


class TestList:
    def test_instances_are_listed_by_uuid_as_the_rpc_api_shows_them(self, cli: Cli, ledger: Writer) -> None:
        assert cli.json("instance", "list") == views(ledger)
        assert [view["instance_uuid"] for view in views(ledger)] == [uuid(1), uuid(2), uuid(3)]

    def test_a_json_list_has_one_entry_a_line(self, cli: Cli, ledger: Writer) -> None:
        first, *entries, last = cli.succeed("instance", "list", "--format", "json").splitlines()
        assert (first, last) == ("[", "]")
        assert [json.loads(line.rstrip(",")) for line in entries] == views(ledger)

    def test_a_table_has_one_line_per_instance(self, cli: Cli, ledger: Writer) -> None:
        header, _, *lines = cli.succeed("instance", "list").splitlines()
        assert header.split() == [
            *("Instance", "Host", "Node", "Project", "State", "Role", "VCPU", "MEMORY_MB", "DISK_GB", "Claim", "Since"),
            "Others",
        ]
        place = [uuid(1), "host-1", "node-1", PROJECT, "building", "instance"]
        assert lines[0].split() == [*place, "2", "4096", "50", "begun", "2026-01-15T12:00:00Z"]
        assert [line.split()[0] for line in lines] == [uuid(1), uuid(2), uuid(3)]
        assert {line.index("building") for line in lines} == {header.index("State")}

    def test_a_list_of_several_pages_has_every_instance_once(
        self, cli: Cli, ledger: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(4, 12):
            ledger.put(begin(number, node="node-1", project_id="p" * number))
        ledger.commit()
        monkeypatch.setattr(instance, "_PAGE", 3)
        assert cli.json("instance", "list") == views(ledger)
        lines = cli.succeed("instance", "list").splitlines()[2:]
        assert [line.split()[0] for line in lines] == [uuid(number) for number in range(1, 12)]

    def test_what_is_listed_is_what_usage_sums_up(self, cli: Cli, ledger: Writer) -> None:
        ledger.put(begin(4, node="node-1", project_id="p", vcpus=7)).commit()
        listed = cli.json("instance", "list")
        assert usage_view(ledger.host) == cli.json("usage")
        for project, usage in cli.json("usage").items():
            held = [view["resources"] for view in listed if view["project_id"] == project]
            assert {"instances": len(held), **{name: sum(row[name] for row in held) for name in held[0]}} == usage

    def test_a_list_is_of_one_host_node_or_project(self, cli: Cli, ledger: Writer, store: SQLStore) -> None:
        settle(store, host="host-2", nodes=1).put(begin(9, node="node-1", project_id="p")).commit()

        def listed(*arguments: str) -> list[str]:
            return [view["instance_uuid"] for view in cli.json("instance", "list", *arguments)]

        assert listed("--host", "host-2") == [uuid(9)]
        assert listed("--node", "node-1") == [uuid(1), uuid(9)]
        assert listed("--node", "node-1", "--host", "host-1") == [uuid(1)]
        assert listed("--project", "p") == [uuid(9)]
        assert listed("--project", "nobody") == []

    def test_an_empty_list_is_a_sentence_or_an_empty_document(self, cli: Cli, store: SQLStore) -> None:
        assert cli.succeed("instance", "list") == "There are no instances.\n"
        assert cli.succeed("instance", "list", "--format", "json") == "[]\n"

    def test_an_unknown_host_or_node_is_an_error(self, cli: Cli, ledger: Writer) -> None:
        assert cli.refuse("instance", "list", "--host", "x") == "the database has no host x"
        assert cli.refuse("instance", "list", "--node", "x") == "the database has no node x"
        assert cli.refuse("instance", "list", "--node", "x", "--host", "host-1") == "host host-1 has no node x"


class TestShow:
    def test_one_instance_is_shown(self, cli: Cli, ledger: Writer) -> None:
        assert cli.json("instance", "show", uuid(2)) == views(ledger)[1]
        lines = [line.split() for line in cli.succeed("instance", "show", uuid(2).upper()).splitlines()]
        assert ["node", "node-2"] in lines
        assert ["VCPU", "2"] in lines

    def test_an_instance_that_is_not_charged_is_an_error(self, cli: Cli, ledger: Writer) -> None:
        assert cli.refuse("instance", "show", uuid(4)) == f"instance {uuid(4)} is charged nothing on any host"
        assert cli.refuse("instance", "show", uuid(1)[:-1]).startswith(f"instance {uuid(1)[:-1]} is charged nothing")
        ledger.put(update(1, vm_state="deleted")).commit()
        cli.refuse("instance", "show", uuid(1))

    def test_an_instance_of_several_hosts_needs_its_host(self, cli: Cli, ledger: Writer, store: SQLStore) -> None:
        settle(store, host="host-2", nodes=1).put(begin(1, node="node-1")).commit()
        assert cli.refuse("instance", "show", uuid(1)).endswith("with --host: host-1, host-2")
        assert cli.json("instance", "show", uuid(1), "--host", "host-2")["host"] == "host-2"
        assert cli.refuse("instance", "show", uuid(1), "--host", "host-3").endswith("nothing on host host-3")


class TestRelease:
    def test_a_release_ends_the_charge_and_says_who_and_why(self, cli: Cli, ledger: Writer, store: SQLStore) -> None:
        ledger.put(FinishClaim(claim_id=uuid(1))).commit()
        entry = views(ledger)[0]
        spelt = uuid(1).upper()
        assert cli.json("instance", "release", spelt, "--host", "host-1", "--reason", " lost ") == entry
        assert uuid(1) not in load(store, "host-1").node("node-1").allocations
        [(payload, asked)] = [
            (payload, asked) for kind, payload, asked in published(store) if kind.endswith("released")
        ]
        assert (payload["instance_id"], payload["reason"], payload["released_by"]) == (uuid(1), "lost", OPERATOR)
        assert (asked["method"], asked["user_id"]) == ("instance release", OPERATOR)

    def test_a_release_raises_the_generation_so_that_a_worker_sees_it(
        self, cli: Cli, ledger: Writer, store: SQLStore
    ) -> None:
        before = ledger["node-1"].generation
        cli.succeed("instance", "release", uuid(1), "--host", "host-1", "--reason", "lost")
        assert load(store, "host-1").node("node-1").generation == before + 1

    def test_a_release_ends_a_claim_that_has_begun(self, cli: Cli, ledger: Writer) -> None:
        cli.succeed("instance", "release", uuid(1), "--host", "host-1", "--reason", "lost")
        assert uuid(1) not in {view["instance_uuid"] for view in cli.json("claim", "list")}

    def test_what_is_not_charged_cannot_be_released(self, cli: Cli, ledger: Writer, store: SQLStore) -> None:
        before = published(store)
        arguments = ("instance", "release", uuid(7), "--reason", "lost", "--host")
        assert cli.refuse(*arguments, "host-1") == f"host host-1 is charged nothing for instance {uuid(7)}"
        assert cli.refuse(*arguments, "x") == "the database has no host x"
        assert published(store) == before

    @pytest.mark.parametrize("reason", ["", " "])
    def test_a_release_needs_a_reason(self, cli: Cli, ledger: Writer, reason: str) -> None:
        said = cli.refuse("instance", "release", uuid(1), "--host", "host-1", "--reason", reason)
        assert said == "reason: must not be empty"
        assert cli.run("instance", "release", uuid(1), "--host", "host-1").exit_code == 2


class TestCompare:
    @pytest.fixture
    def running(self, tmp_path: Path) -> Path:
        return tmp_path / "running.txt"

    @pytest.fixture
    def built(self, ledger: Writer) -> Writer:
        """Instances 2 and 3 are built."""
        for number in (2, 3):
            ledger.put(update(number, vm_state="active"))
        return ledger.commit()

    def test_no_difference_is_exit_code_0(self, cli: Cli, built: Writer, running: Path, store: SQLStore) -> None:
        before = published(store)
        running.write_text(f"{uuid(2)}\n\n {uuid(3).upper()} \r\n", encoding="utf-8")
        arguments = ("instance", "compare", "--host", "host-1", "--node", "node-2", "--file", str(running))
        assert cli.json(*arguments) == {"charged_not_running": [], "running_not_charged": [], "building": []}
        assert published(store) == before

    def test_a_difference_is_exit_code_1_and_an_event(
        self, cli: Cli, built: Writer, running: Path, store: SQLStore
    ) -> None:
        running.write_text(f"{uuid(8)}\n{uuid(2)}\n", encoding="utf-8")
        arguments = ("instance", "compare", "--host", "host-1", "--node", "node-2", "--file", str(running))
        done = cli.run(*arguments, "--format", "json")
        found = {"charged_not_running": [uuid(3)], "running_not_charged": [uuid(8)], "building": []}
        assert (done.exit_code, json.loads(done.stdout), done.stderr) == (1, found, "")
        event_type, payload, asked = published(store)[-1]
        assert (event_type, payload["kind"]) == ("tracker.node.drift", "instances")
        assert {name: payload[name] for name in found} == found
        assert asked["method"] == "instance compare"
        assert uuid(3) in load(store, "host-1").node("node-2").allocations

    def test_a_claim_that_has_begun_is_no_difference(self, cli: Cli, built: Writer, running: Path) -> None:
        running.write_text("", encoding="utf-8")
        arguments = ("instance", "compare", "--host", "host-1", "--node", "node-1", "--file", str(running))
        assert cli.json(*arguments)["building"] == [uuid(1)]
        assert cli.succeed(*arguments).splitlines()[-2:] == ["building: 1", f"  {uuid(1)}"]

    def test_a_host_with_several_nodes_needs_the_node(self, cli: Cli, built: Writer, running: Path) -> None:
        running.write_text("", encoding="utf-8")
        arguments = ("instance", "compare", "--file", str(running), "--host")
        assert cli.refuse(*arguments, "host-1").startswith("node: must name a node")
        assert cli.refuse(*arguments, "host-1", "--node", "x") == "Host host-1 has no node x"
        assert cli.refuse(*arguments, "x") == "the database has no host x"

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"\xff\xfe", "is not text in UTF-8"),
            (f"{uuid(1)}\n{'x' * 256}\n".encode(), "line 2: must not be longer than 255 characters"),
        ],
    )
    def test_a_file_that_is_no_list_of_uuids_is_an_error(
        self, cli: Cli, built: Writer, running: Path, content: bytes, says: str
    ) -> None:
        running.write_bytes(content)
        arguments = ("instance", "compare", "--host", "host-1", "--node", "node-1", "--file", str(running))
        assert cli.refuse(*arguments).endswith(says)

    def test_a_file_that_does_not_exist_is_wrong_usage(self, cli: Cli, built: Writer, running: Path) -> None:
        assert cli.run("instance", "compare", "--host", "host-1", "--file", str(running)).exit_code == 2


class TestAdopt:
    @pytest.fixture
    def running(self, tmp_path: Path) -> Path:
        return tmp_path / "running.json"

    def arguments(self, running: Path, *more: str) -> tuple[str, ...]:
        return ("instance", "adopt", "--host", "host-1", "--file", str(running), *more)

    @pytest.mark.parametrize("lines", [False, True])
    def test_instances_of_a_file_are_charged(
        self, cli: Cli, ledger: Writer, running: Path, store: SQLStore, lines: bool
    ) -> None:
        instances = [instance_dict(number, project_id=None, node="node-2") for number in (7, 8)]
        text = "\n\n".join(map(json.dumps, instances)) if lines else json.dumps(instances, indent=2)
        running.write_text(text, encoding="utf-8")
        arguments = self.arguments(running, "--project", "p", "--node", "node-1")
        assert cli.json(*arguments) == {"adopted": [uuid(7), uuid(8)], "already": [], "refused": []}
        held = load(store, "host-1").node("node-2").allocations[uuid(7)]
        assert (held.instance.project_id, held.claim_state) == ("p", "finished")
        event_type, payload, asked = published(store)[-1]
        assert (event_type, payload["instance_id"]) == ("tracker.usage.adopted", uuid(8))
        assert (asked["method"], asked["user_id"]) == ("instance adopt", OPERATOR)
        assert cli.succeed(*arguments).splitlines() == ["adopted: 0, charged already: 2", "refused: 0"]

    def test_a_refusal_is_exit_code_1_and_the_others_are_adopted(
        self, cli: Cli, ledger: Writer, running: Path, store: SQLStore
    ) -> None:
        running.write_text(json.dumps([instance_dict(7), {"uuid": uuid(8)}]), encoding="utf-8")
        done = cli.run(*self.arguments(running, "--node", "node-1"))
        assert (done.exit_code, done.stderr) == (1, "")
        assert done.stdout.splitlines() == [
            "adopted: 1, charged already: 0",
            "refused: 1",
            f"  {uuid(8)}: instances.1.vcpus: is missing",
        ]
        assert uuid(7) in load(store, "host-1").node("node-1").allocations

    def test_a_file_of_many_instances_is_adopted_in_pieces(self, cli: Cli, ledger: Writer, running: Path) -> None:
        text = "\n".join(json.dumps(instance_dict(number)) for number in range(10, 1110))
        running.write_text(text, encoding="utf-8")
        assert len(cli.json(*self.arguments(running, "--node", "node-1"))["adopted"]) == 1100

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"\xff\xfe", "running.json is not text in UTF-8"),
            (b"[1,", "running.json is not JSON: Expecting value: line 1 column 4 (char 3)"),
            (b'{"uuid": "x"}\n{', "running.json, line 2 is not JSON: "),
            (b"[" * 100_000, "running.json is not JSON: "),
            (b"[7]", "instances.0: must be an object"),
            (b'{"vcpus": 1}', "instances.0.uuid: is missing"),
        ],
    )
    def test_a_file_that_is_no_list_of_instances_is_an_error(
        self, cli: Cli, ledger: Writer, running: Path, content: bytes, says: str
    ) -> None:
        running.write_bytes(content)
        assert says in cli.refuse(*self.arguments(running))
