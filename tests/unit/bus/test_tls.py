# SPDX-License-Identifier: Apache-2.0
"""Files and versions of TLS that cannot be used are refused before a connection needs them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tracker_worker.bus.tls import tls_arguments
from tracker_worker.errors import ConfigurationError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates with their keys, a key with a passphrase, and files that are neither."""
    directory = tmp_path_factory.mktemp("tls")
    for name in ("one", "two"):
        _openssl(
            *["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=broker"],
            *("-keyout", directory / f"{name}.key", "-out", directory / f"{name}.pem"),
        )
    _openssl(
        "rsa", "-aes256", "-passout", "pass:secret", "-in", directory / "one.key", "-out", directory / "locked.key"
    )
    (directory / "text").write_text("no PEM", encoding="utf-8")
    (directory / "empty").touch()
    (directory / "broken").write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", encoding="utf-8"
    )
    (directory / "directory").mkdir()
    both = (directory / "one.pem").read_text("utf-8") + (directory / "one.key").read_text("utf-8")
    (directory / "both.pem").write_text(both, encoding="utf-8")
    return directory


def _openssl(*arguments: Any) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True)


def arguments(files: Path, *, ca: str = "", certificate: str = "", key: str = "", version: str = "") -> dict[str, Any]:
    ca, certificate, key = (str(files / name) if name else "" for name in (ca, certificate, key))
    return tls_arguments(version=version, ca_file=ca, certificate_file=certificate, key_file=key)


@pytest.mark.parametrize("name", ["missing", "directory", "text", "empty", "broken", "one.key"])
def test_a_file_without_certificates_is_named_with_its_option(files: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\[oslo_messaging_rabbit\] ssl_ca_file .*/{name} "):
        arguments(files, ca=name)
    with pytest.raises(ConfigurationError, match=rf"ssl_cert_file .*/{name} "):
        arguments(files, certificate=name, key="one.key")


@pytest.mark.parametrize("name", ["missing", "directory", "text", "empty", "one.pem", "two.key", "locked.key"])
def test_a_file_without_the_key_is_named_with_its_option(files: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"ssl_key_file .*/{name} "):
        arguments(files, certificate="one.pem", key=name)


def test_a_key_that_does_not_fit_is_said_with_both_files(files: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"two\.key does not belong to the certificate in ssl_cert_file .*/one\.pem"
    ):
        arguments(files, certificate="one.pem", key="two.key")


def test_a_key_with_a_passphrase_is_refused_without_asking_for_it(files: Path) -> None:
    with pytest.raises(ConfigurationError, match="passphrase"):
        arguments(files, certificate="one.pem", key="locked.key")


def test_a_certificate_without_its_key_is_refused(files: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ssl_cert_file .* holds no private key"):
        arguments(files, certificate="one.pem")


def test_a_key_without_its_certificate_is_refused(files: Path) -> None:
    with pytest.raises(ConfigurationError, match="ssl_cert_file"):
        arguments(files, key="one.key")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ssl_ca_file"):
        tls_arguments(version="", ca_file="a\0b", certificate_file="", key_file="")


def test_an_unknown_version_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"ssl_version sslv2 .*tlsv1_2"):
        tls_arguments(version="sslv2", ca_file="", certificate_file="", key_file="")


def test_files_that_can_be_used_are_used(files: Path) -> None:
    found = arguments(files, ca="one.pem", certificate="one.pem", key="one.key", version="TLSv1_2")
    assert (found["ca_certs"], found["certfile"], found["keyfile"]) == (
        *[str(files / "one.pem")] * 2,
        str(files / "one.key"),
    )
    assert "keyfile" not in arguments(files, certificate="both.pem")
