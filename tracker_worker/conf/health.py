# SPDX-License-Identifier: Apache-2.0
"""[health]: where the worker says how it is, and what counts as ill."""

from __future__ import annotations

from oslo_config import cfg

from tracker_worker.errors import ConfigurationError

GROUP = "health"

OPTIONS = [
    cfg.StrOpt(
        "listen",
        default="127.0.0.1:9710",
        help="HOST:PORT on which the worker answers HTTP requests about its health, its metrics and its page. Whoever can "
        "reach it can read which hosts and nodes it serves, who asked for what, and why it was refused, and can change "
        "nothing. Give each worker of a machine a port of its own; with port 0 the system chooses one, which the log names. "
        "With 0.0.0.0 or [::] every network of the machine can read it. Empty: it does not listen.",
    ),
    cfg.IntOpt(
        "probe_interval_seconds",
        default=5,
        min=1,
        max=300,
        help="Seconds within which the worker sends itself a message through the queue of each host that it is active for, and "
        "reads from its database. After two of them without an answer it is not ready. Each message costs less than 1 ms of "
        "CPU time, and at most 50 are sent in a second. Raise it if the broker is slower than that for a while; what does not "
        "arrive is noticed later then.",
    ),
    cfg.IntOpt(
        "turn_seconds",
        default=10,
        min=1,
        max=3600,
        help="Seconds without a turn of the engine after which /livez says that the worker is not alive. Waiting for the "
        "database within its time limits (10 s) counts as turning. Keep it below [tracker] stall_seconds, which ends the "
        "process.",
    ),
    cfg.IntOpt(
        "project_series",
        default=0,
        min=0,
        max=10_000,
        help="Projects that have series of their own in tracker_project_usage: those with the most instances; the others are "
        "summed up as (others). 0: the metric has no series. Each project costs a series for each resource class and one for "
        "its instances, in the worker and in Prometheus.",
    ),
]


def read_listen(conf: cfg.ConfigOpts) -> tuple[str, int] | None:
    """Host (without the brackets of an IPv6 address) and port of ``[health] listen``; None: it is empty. Raises
    ConfigurationError."""
    text: str = conf.health.listen.strip()
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _wrong(text, "an IPv6 address needs brackets")
    if not colon or not host or not (port.isascii() and port.isdigit()):
        raise _wrong(text, "it must be HOST:PORT")
    if int(port) > 65535:
        raise _wrong(text, "a port is at most 65535")
    return host, int(port)


def _wrong(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"[health] listen {text} is no address: {why}, for example 127.0.0.1:9710")
