# SPDX-License-Identifier: Apache-2.0
"""TLS to the broker: the options, and whether their files can be used, before a connection needs them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from tracker_worker.errors import ConfigurationError

_GROUP = "[oslo_messaging_rabbit]"
_VERSIONS = {
    "tlsv1": ssl.PROTOCOL_TLSv1,
    "tlsv1_1": ssl.PROTOCOL_TLSv1_1,
    "tlsv1_2": ssl.PROTOCOL_TLSv1_2,
    "sslv23": ssl.PROTOCOL_TLS_CLIENT,
}


def tls_arguments(*, version: str, ca_file: str, certificate_file: str, key_file: str) -> dict[str, Any]:
    """py-amqp's ``ssl`` argument for the options of these meanings; an empty text is an option that is not set.

    Raises ConfigurationError: the text names the option and the file. A file is read here, and again for each connection.
    """
    arguments: dict[str, Any] = {}
    if version:
        if version.lower() not in _VERSIONS:
            raise ConfigurationError(f"{_GROUP} ssl_version {version} is not served; known: {', '.join(_VERSIONS)}")
        arguments["ssl_version"] = _VERSIONS[version.lower()]
    if key_file and not certificate_file:
        raise ConfigurationError(
            f"{_GROUP} ssl_key_file {key_file} needs the certificate that it belongs to: ssl_cert_file"
        )
    if ca_file:
        _check_certificates("ssl_ca_file", ca_file)
        arguments.update(ca_certs=ca_file, cert_reqs=ssl.CERT_REQUIRED)
    if certificate_file:
        _check_certificates("ssl_cert_file", certificate_file)
        arguments["certfile"] = certificate_file
        _check_key(certificate_file, key_file)
    if key_file:
        arguments["keyfile"] = key_file
    return arguments


def _check_certificates(option: str, file: str) -> None:
    _check_file(option, file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, ValueError):
        raise ConfigurationError(f"{_GROUP} {option} {file} holds no certificate in PEM format") from None


def _check_key(certificate_file: str, key_file: str) -> None:
    option, file = ("ssl_key_file", key_file) if key_file else ("ssl_cert_file", certificate_file)
    _check_file(option, file)

    def passphrase() -> str:
        # OpenSSL would ask for it on the terminal, at every connection.
        raise ConfigurationError(f"{_GROUP} {option} {file} is protected by a passphrase: store the key without one")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate_file, file, passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"does not belong to the certificate in ssl_cert_file {certificate_file}"
        else:
            problem = "holds no private key in PEM format"
        raise ConfigurationError(f"{_GROUP} {option} {file} {problem}") from None


def _check_file(option: str, file: str) -> None:
    try:
        with Path(file).open("rb"):
            pass
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is no path of a file"
        raise ConfigurationError(f"{_GROUP} {option} {ascii(file)[1:-1]} cannot be read: {why}") from None
