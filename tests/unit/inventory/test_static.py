# SPDX-License-Identifier: Apache-2.0
"""The driver that reports the nodes of a YAML file, and the possible errors of the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.support.inventory import DriverContract, make_conf
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.resources import ZERO
from tracker_worker.errors import ConfigurationError
from tracker_worker.inventory import static_file
from tracker_worker.inventory.base import InventoryDriver
from tracker_worker.inventory.static import StaticDriver

NODE = "{vcpus: 4, memory_mb: 8192, local_gb: 100}"


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "static.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def driver_of(path: Path | str | None, *, host: str = "h1") -> StaticDriver:
    return StaticDriver(host, make_conf(static_file=path))


def refusal(path: Path | str | None, *, host: str = "h1") -> str:
    with pytest.raises(ConfigurationError) as caught:
        driver_of(path, host=host)
    return str(caught.value)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The contents that were parsed."""
    contents: list[bytes] = []
    parse = static_file._parse_yaml

    def counting(content: bytes) -> object:
        contents.append(content)
        return parse(content)

    monkeypatch.setattr(static_file, "_parse_yaml", counting)
    return contents


class TestContract(DriverContract):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> InventoryDriver:
        return driver_of(write(tmp_path, f"nodes: {{n1: {NODE}, n2: {NODE}}}"))


class TestWhatTheFileSays:
    def test_a_key_that_is_left_out_has_its_default(self, tmp_path: Path) -> None:
        driver = driver_of(write(tmp_path, f"nodes: {{n1: {NODE}}}"))
        assert driver.get_available_resource("n1") == {
            "vcpus": 4,
            "memory_mb": 8192,
            "local_gb": 100,
            "vcpus_used": 0,
            "memory_mb_used": 0,
            "local_gb_used": 0,
            "cpu_info": "",
            "hypervisor_type": "static",
            "hypervisor_version": 1,
            "hypervisor_hostname": "n1",
            "disk_available_least": 100,
        }

    def test_a_key_in_the_file_overrides_its_default(self, tmp_path: Path) -> None:
        node = {
            "vcpus": 1,
            "memory_mb": 2,
            "local_gb": 0,
            "vcpus_used": 4,
            "memory_mb_used": 5,
            "local_gb_used": 6,
            "cpu_info": "{}",
            "hypervisor_type": "QEMU",
            "hypervisor_version": 7,
            "hypervisor_hostname": "other",
            "disk_available_least": -8,
        }
        driver = driver_of(write(tmp_path, yaml.safe_dump({"nodes": {"n1": node}})))
        assert driver.get_available_resource("n1") == node

    def test_resource_classes_are_passed_on(self, tmp_path: Path) -> None:
        node = "{vcpus: 4, memory_mb: 8192, local_gb: 100, resources: {VGPU: 4, VCPU: {allocation_ratio: 2}}}"
        driver = driver_of(write(tmp_path, f"nodes: {{n1: {node}}}"))
        read = read_inventory(driver.get_available_resource("n1"), ZERO)
        assert read is not None
        assert {name: each.capacity for name, each in read.classes.items()} == {
            "VCPU": 8,
            "MEMORY_MB": 8192,
            "DISK_GB": 100,
            "VGPU": 4,
        }

    def test_nodes_at_the_top_are_for_any_host(self, tmp_path: Path) -> None:
        path = write(tmp_path, f"nodes: {{n2: {NODE}, n1: {NODE}}}")
        assert driver_of(path, host="h1").get_available_nodes() == ["n2", "n1"]
        assert driver_of(path, host="h2").get_available_nodes() == ["n2", "n1"]

    def test_each_host_has_its_own_nodes(self, tmp_path: Path) -> None:
        path = write(tmp_path, f"hosts: {{h1: {{nodes: {{a: {NODE}}}}}, h2: {{nodes: {{b: {NODE}, c: {NODE}}}}}}}")
        assert driver_of(path, host="h1").get_available_nodes() == ["a"]
        assert driver_of(path, host="h2").get_available_nodes() == ["b", "c"]

    def test_anchors_and_merge_keys_are_not_duplicates(self, tmp_path: Path) -> None:
        path = write(tmp_path, f"nodes:\n  n1: &big {NODE}\n  n2:\n    <<: *big\n    vcpus: 8\n  n3: *big\n")
        driver = driver_of(path)
        seen = {}
        for node in driver.get_available_nodes():
            resource = driver.get_available_resource(node)
            assert resource is not None
            seen[node] = (resource["vcpus"], resource["hypervisor_hostname"])
        assert seen == {"n1": (4, "n1"), "n2": (8, "n2"), "n3": (4, "n3")}


class TestWhatIsWrong:
    """Each error is one sentence on one line that names the file and the place in it."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            # Not YAML, or not the expected YAML.
            ("", "it is empty"),
            ("# only a comment", "it is empty"),
            ("nodes: {n1: ", "line 1, column 13: expected the node content, but found '<stream end>'"),
            ("nodes:\n  n1: a: b", "line 2, column 8: mapping values are not allowed here"),
            ("--- a\n--- b\n", "line 2, column 1: but found another document"),
            ("nodes: !!python/object:os.system {}", "line 1, column 8: could not determine a constructor"),
            ("nodes: {n1: 2001-99-99}", "it is not YAML: month must be in 1..12"),
            (b"nodes: \xff\xfe", "it is not YAML: "),
            ("[" * 5_000, "it is nested too deeply"),
            (f"nodes:\n  n1: {NODE}\n  n1: {NODE}", "line 3, column 3: the key 'n1' occurs twice"),
            ("nodes:\n  n1: [{vcpus: 1, vcpus: 2}]", "line 2, column 19: the key 'vcpus' occurs twice"),
            # The shape.
            ("[]", "its top level must be a mapping of keys to values, not []"),
            ("{}", "it has neither nodes nor hosts at the top level"),
            (f"nodes: {{n1: {NODE}}}\nhosts: {{}}", "it has both nodes and hosts at the top level"),
            (f"node: {{n1: {NODE}}}", "unknown node at the top level; known are nodes, hosts"),
            ("nodes:", "nodes is empty"),
            ("nodes: {}", "nodes is empty"),
            ("nodes: [n1]", "nodes must be a mapping of keys to values, not ['n1']"),
            ("hosts:", "hosts is empty"),
            ("hosts: {h1: }", "hosts.h1 must be a mapping of keys to values, not None"),
            ("hosts: {h1: {}}", "hosts.h1.nodes is missing"),
            ("hosts: {h1: {nodes: {}}}", "hosts.h1.nodes is empty"),
            (f"hosts: {{h1: {{nodes: {{n1: {NODE}}}, rack: 1}}}}", "unknown rack at hosts.h1; known are nodes"),
            (f"nodes: {{1: {NODE}}}", "the name 1 in nodes must be text that is not empty: write it in quotes"),
            (f"nodes: {{on: {NODE}}}", "the name True in nodes must be text"),
            (f"nodes: {{'': {NODE}}}", "the name '' in nodes must be text"),
            # A node.
            ("nodes: {n1: }", "nodes.n1 must be a mapping of keys to values, not None"),
            ("nodes: {n1: {memory_mb: 1}}", "nodes.n1 does not have vcpus, local_gb"),
            ("nodes: {n1: {vcpu: 1}}", "unknown vcpu at nodes.n1; known are vcpus, memory_mb"),
        ],
    )
    def test_a_wrong_file_is_refused_with_the_place_in_it(
        self, tmp_path: Path, text: str | bytes, expected: str
    ) -> None:
        path = write(tmp_path, text)
        message = refusal(path)
        assert message.startswith(f"The inventory file {path} is wrong: {expected}")
        assert message.endswith(".")
        assert "\n" not in message

    @pytest.mark.parametrize("value", ["true", "4.0", ".nan", ".inf", "-1", "'4'", "null", "[4]"])
    @pytest.mark.parametrize("key", ["vcpus", "memory_mb", "local_gb", "vcpus_used", "hypervisor_version"])
    def test_a_count_that_is_not_an_integer_of_0_or_more_is_refused(self, tmp_path: Path, key: str, value: str) -> None:
        path = write(tmp_path, f"hosts: {{h1: {{nodes: {{n1: {{<<: {NODE}, {key}: {value}}}}}}}}}")
        expected = f"hosts.h1.nodes.n1.{key} must be an integer of 0 or more, not {yaml.safe_load(value)!r}."
        assert refusal(path) == f"The inventory file {path} is wrong: {expected}"

    @pytest.mark.parametrize(
        ("entry", "kind"), [("cpu_info: {}", "text"), ("hypervisor_type: 1", "text"), ("disk_available_least: a", "an")]
    )
    def test_an_optional_key_of_the_wrong_type_is_refused(self, tmp_path: Path, entry: str, kind: str) -> None:
        path = write(tmp_path, f"nodes: {{n1: {{<<: {NODE}, {entry}}}}}")
        assert f"nodes.n1.{entry.split(':')[0]} must be {kind}" in refusal(path)

    @pytest.mark.parametrize(
        ("classes", "expected"),
        [
            ("[VGPU]", "resources must be an object of resource classes"),
            ("{vgpu: 1}", "resources.vgpu is no name of a resource class"),
            ("{1: 1}", "resources.1 is no name of a resource class"),
            ("{VGPU: }", "resources.VGPU has no total"),
            ("{VGPU: {total: 4, size: 1}}", "resources.VGPU has unknown keys: size; known are total, reserved"),
            ("{VGPU: 1.5}", "resources.VGPU.total must be an integer, not float"),
            ("{VGPU: {total: 4, reserved: 5}}", "resources.VGPU.reserved must not be more than the total, 4"),
            ("{VGPU: {total: 4, allocation_ratio: .nan}}", "resources.VGPU.allocation_ratio must be a finite number"),
            ("{VGPU: {total: 4, step_size: 0}}", "resources.VGPU.step_size must be at least 1"),
            ("{VCPU: 4}", "resources.VCPU must not have a total, which is vcpus"),
        ],
    )
    def test_a_mistake_in_a_resource_class_names_its_place(self, tmp_path: Path, classes: str, expected: str) -> None:
        path = write(tmp_path, f"hosts: {{h1: {{nodes: {{n1: {{<<: {NODE}, resources: {classes}}}}}}}}}")
        assert refusal(path).startswith(f"The inventory file {path} is wrong: hosts.h1.nodes.n1.{expected}")

    def test_an_error_at_another_host_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, f"hosts: {{h1: {{nodes: {{n1: {NODE}}}}}, h2: {{nodes: {{n2: {{}}}}}}}}")
        assert "hosts.h2.nodes.n2 does not have vcpus, memory_mb, local_gb" in refusal(path, host="h1")

    def test_a_name_with_a_newline_keeps_the_error_on_one_line(self, tmp_path: Path) -> None:
        assert "\n" not in refusal(write(tmp_path, 'nodes: {"a\\nb": {}}'))

    def test_a_host_that_the_file_does_not_list_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, f"hosts: {{h1: {{nodes: {{n1: {NODE}}}}}}}")
        assert refusal(path, host="h9") == f"The inventory file {path} does not list the host 'h9' under hosts."

    @pytest.mark.parametrize("unset", [None, ""])
    def test_a_missing_option_is_named(self, unset: str | None) -> None:
        assert "set the option static_file in the section [inventory]" in refusal(unset)

    def test_a_missing_file_or_a_directory_is_refused(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing.yaml"
        for path, reason in ((missing, "No such file or directory"), (tmp_path, "Is a directory")):
            where = f"{path} (option static_file in the section [inventory])"
            assert refusal(path) == f"The inventory file {where} cannot be read: {reason}."


class TestReload:
    def test_the_file_is_read_only_on_a_reload(self, tmp_path: Path) -> None:
        path = write(tmp_path, f"nodes: {{n1: {NODE}}}")
        driver = driver_of(path)
        path.unlink()
        assert driver.get_available_nodes() == ["n1"]
        assert driver.get_available_resource("n1")

    def test_a_reload_reads_a_changed_file(self, tmp_path: Path) -> None:
        driver = driver_of(write(tmp_path, f"nodes: {{n1: {NODE}}}"))
        write(tmp_path, f"nodes: {{n2: {NODE}, n3: {NODE}}}")
        driver.reload()
        assert driver.get_available_nodes() == ["n2", "n3"]
        assert driver.get_available_resource("n1") is None

    def test_a_reload_reads_a_replaced_file_of_the_same_age_and_size(self, tmp_path: Path) -> None:
        path = write(tmp_path, f"nodes: {{n1: {NODE}}}")
        driver = driver_of(path)
        age = path.stat()
        other = tmp_path / "other.yaml"
        other.write_text(f"nodes: {{n2: {NODE}}}")
        os.utime(other, ns=(age.st_atime_ns, age.st_mtime_ns))
        other.replace(path)
        driver.reload()
        assert driver.get_available_nodes() == ["n2"]

    @pytest.mark.parametrize("bad", ["nodes: {", f"hosts: {{h2: {{nodes: {{n1: {NODE}}}}}}}", None])
    def test_a_wrong_file_keeps_the_old_nodes_and_a_repaired_file_is_read(
        self, tmp_path: Path, bad: str | None
    ) -> None:
        path = write(tmp_path, f"nodes: {{n1: {NODE}}}")
        driver = driver_of(path)
        if bad is None:
            path.unlink()
        else:
            write(tmp_path, bad)
        with pytest.raises(ConfigurationError, match=str(path)):
            driver.reload()
        assert driver.get_available_nodes() == ["n1"]
        write(tmp_path, f"nodes: {{n1: {NODE}, n2: {NODE}}}")
        driver.reload()
        assert driver.get_available_nodes() == ["n1", "n2"]


class TestManyHosts:
    def test_a_thousand_hosts_parse_the_file_once(self, tmp_path: Path, parses: list[bytes]) -> None:
        hosts = {f"h{n}": {"nodes": {f"n{n}": {"vcpus": n, "memory_mb": 1024, "local_gb": 10}}} for n in range(1000)}
        conf = make_conf(static_file=write(tmp_path, yaml.safe_dump({"hosts": hosts})))
        drivers = [StaticDriver(host, conf) for host in hosts]
        assert len(parses) == 1
        for driver in drivers:
            driver.reload()
        assert len(parses) == 1
        assert drivers[7].get_available_nodes() == ["n7"]

    def test_a_wrong_file_is_parsed_once(self, tmp_path: Path, parses: list[bytes]) -> None:
        path = write(tmp_path, f"nodes: {{n1: {NODE}}}")
        drivers = [driver_of(path, host=f"h{n}") for n in range(3)]
        write(tmp_path, "nodes: {n1: {vcpus: many}}")
        for driver in drivers:
            with pytest.raises(ConfigurationError, match=r"nodes\.n1 does not have memory_mb, local_gb\.$"):
                driver.reload()
        assert len(parses) == 2
