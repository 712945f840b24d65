# SPDX-License-Identifier: Apache-2.0
"""Record the golden files again: ``python -m tests.wire.record --transport-url rabbit://...``.

Runs stock oslo.messaging programs against a broker that must be empty and private: it uses the names of a real
deployment, and deletes them at the end.
"""

# The backend has to be chosen before the first import of oslo.messaging, which would take eventlet's.
# ruff: noqa: E402
from __future__ import annotations

from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)

import argparse
import functools

from tests.wire import stock
from tests.wire.capture import capturing
from tests.wire.golden import save, save_declares
from tests.wire.record_declares import record_declares
from tests.wire.record_replies import record_replies
from tests.wire.record_requests import drop_worker_topology, record_notifications, record_requests


def main() -> None:
    """Record every shape. Ends with status 1 if the broker is in use."""
    parser = argparse.ArgumentParser(prog="python -m tests.wire.record", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--transport-url", required=True, help="rabbit://user:password@host:port// of a private broker")
    transport_url = parser.parse_args().transport_url
    conf = functools.partial(stock.configuration, transport_url)
    with capturing(conf()) as capture:
        if capture.exists(stock.CONTROL_EXCHANGE):
            parser.exit(1, f"The broker has an exchange {stock.CONTROL_EXCHANGE!r}: it is not private.\n")
        made_with = stock.versions(capture.server_properties)
        for golden in record_requests(capture, conf):
            save(golden, made_with)
            print(golden.name)
        drop_worker_topology(capture)
        capture.declared.clear()
        for golden in record_notifications(capture, conf):
            save(golden, made_with)
            print(golden.name)
        for golden in record_replies(capture, conf):
            save(golden, made_with)
            print(golden.name)
        capture.delete_declared()
        for name, options, programs in record_declares(capture, conf):
            save_declares(name, options, programs, made_with)
            print("declares", name)


if __name__ == "__main__":
    main()
