# SPDX-License-Identifier: Apache-2.0
"""A stock notification listener, as a program of a cloud would have it; nothing of this project is imported.

``python listen.py CONFIG-FILE TOPIC THREADS OUTPUT`` writes each notification as a line of JSON to OUTPUT, until SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

import oslo_messaging
from oslo_config import cfg


class Endpoint:
    """Writes what arrives."""

    def __init__(self, path):
        self._lock = threading.Lock()
        self._output = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 it is written to until the end

    def info(self, context, publisher_id, event_type, payload, metadata):
        line = {"publisher_id": publisher_id, "event_type": event_type, "payload": payload, **metadata}
        with self._lock:
            self._output.write(json.dumps(line) + "\n")

    warn = info


def main(configuration, topic, threads, output):
    # oslo.messaging registers the options of its tracing on cfg.CONF only, and then reads them from the transport's conf: a
    # listener on any other ConfigOpts fails.
    conf = cfg.CONF
    conf(["--config-file", configuration])
    transport = oslo_messaging.get_notification_transport(conf)
    target = oslo_messaging.Target(topic=topic)
    listener = oslo_messaging.get_notification_listener(transport, [target], [Endpoint(output)], executor="threading")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    listener.start(override_pool_size=int(threads))
    ended.wait()
    listener.stop()
    listener.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
