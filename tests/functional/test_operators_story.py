# SPDX-License-Identifier: Apache-2.0
"""The operator's story: a worker is installed by doc/admin/install.md alone, and one fault of each kind of doc/admin/faults.md
is caused. For each, /readyz, the metrics in Prometheus, the document of the page, the log and ``check`` say the same true thing
within 15 s.

The table of what they say is printed (``pytest -s``), and written to the file that the environment's STORY_TABLE names."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.functional.operated_site import NODES, Site
from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.support import signals
from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.page_installation import HOST
from tests.support.signals import HEAD, NO_ANSWER, Document, Watch, codes, row

# Stock clients leave sockets open when they reconnect.
pytestmark = [pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"), pytest.mark.long]

PROMISED_SECONDS = 15.0
# So long it is looked, so that the table says how late a signal is.
_MOST_SECONDS = 30.0
READY = "200"
WATERMARK = "set_vm_memory_high_watermark"

Cause = Callable[[Site], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``cause`` ends the fault again at the end of its block. ``metrics``: an expression that has a series while the fault is
    there; ``%s`` is the label of the worker. The other fields are what ``tests.support.signals`` expects; ``log`` None: nothing
    is logged. ``check``: level, name and words of a finding."""

    name: str
    cause: Cause
    readyz: str
    metrics: str
    page: Callable[[Document], str] | None
    log: str | None
    check: tuple[str, str, str]
    arguments: tuple[str, ...] = ()
    other: bool = False


def problem(code: str) -> Callable[[Document], str]:
    """The page shows this problem and no other."""
    return lambda document: f"problem {code}" if codes(document) == [code] else ""


# --- without an effect on the readiness ------------------------------------------------------------------------------


@contextmanager
def parked(site: Site) -> Iterator[None]:
    site.client.cast(HOST, "finish_resource_claim", claim="that is not its name")
    yield
    site.run("dead-letter", "purge", "--all", "--yes")


def decision_parked(document: Document) -> str:
    return next((f"decision parked: {one['code']}" for one in document["decisions"] if one["outcome"] == "parked"), "")


@contextmanager
def full_queue(site: Site) -> Iterator[None]:
    limit = json.dumps({"max-length": 0, "overflow": "reject-publish"})
    site.ctl("set_policy", "full", r"^notifications\.info$", limit, "--apply-to", "queues", "--priority", "9")
    claim(site, 1)
    yield
    site.ctl("clear_policy", "full")
    wait_until(
        lambda: site.prometheus.value(f"sum(tracker_outbox_waiting{site.instance()})") == 0, "everything is published"
    )


def topic_waiting(document: Document) -> str:
    return next((f"topic {one['topic']}: {one['waiting']} wait" for one in document["topics"] if one["waiting"]), "")


@contextmanager
def failing_driver(site: Site) -> Iterator[None]:
    site.broken.touch()
    site.audit()
    yield
    site.broken.unlink()
    site.run("audit", "--host", HOST)  # the cure that ``check`` names


def node_stale(document: Document) -> str:
    return next((f"{one['node']} stale: {one['reason']}" for one in document["nodes"] if one["state"] == "stale"), "")


# --- the database ----------------------------------------------------------------------------------------------------


@contextmanager
def locked_host(site: Site) -> Iterator[None]:
    with site.session() as session:
        session.execute("SELECT 1 FROM nodes FOR UPDATE")
        claim(site, 2, wait=False)
        yield


@contextmanager
def frozen_database(site: Site) -> Iterator[None]:
    with site.postgresql.frozen():
        yield


@contextmanager
def stopped_database(site: Site) -> Iterator[None]:
    site.postgresql.stop(mode="immediate")
    yield
    site.postgresql.start()


# --- the broker ------------------------------------------------------------------------------------------------------


@contextmanager
def alarm(site: Site) -> Iterator[None]:
    site.rabbitmq.ctl(WATERMARK, "absolute", "1000000")
    try:
        yield
    finally:
        site.rabbitmq.ctl(WATERMARK, "0.4")


@contextmanager
def blackhole(site: Site) -> Iterator[None]:
    site.proxy.stall(noticed=True)
    yield
    site.proxy.cut()  # otherwise the missed heartbeats do, later


@contextmanager
def stopped_broker(site: Site) -> Iterator[None]:
    site.rabbitmq.stop_app()
    yield
    site.rabbitmq.start_app()


@contextmanager
def missing_right(site: Site) -> Iterator[None]:
    names = ("configure", "write", "read")
    (printed,) = json.loads(site.rabbitmq.ctl("list_user_permissions", site.user, "--formatter", "json"))
    rights = [str(printed[name]) for name in names]
    without = [*rights[:2], rights[2].replace(rf"tracker\.{HOST}|", "", 1)]
    assert without != rights
    site.ctl("set_permissions", site.user, *without)
    site.proxy.cut()  # the broker asks for a right once for each channel
    yield
    site.ctl("set_permissions", site.user, *rights)
    site.proxy.cut()  # otherwise it is looked again after 10 s


@contextmanager
def other_ledger(site: Site) -> Iterator[None]:
    worker = site.other_worker(site.configuration.with_name("other"))
    worker.start()
    try:
        yield
    finally:
        worker.close()


# --- the worker ------------------------------------------------------------------------------------------------------


@contextmanager
def suspended(site: Site) -> Iterator[None]:
    site.worker.signal(signal.SIGSTOP)
    yield
    site.worker.signal(signal.SIGCONT)


@contextmanager
def killed(site: Site) -> Iterator[None]:
    site.worker.kill()
    yield
    site.worker.start()


def claim(site: Site, number: int, *, wait: bool = True) -> None:
    """A claim of the scheduler, by a call or by a cast."""
    send = site.client.call if wait else site.client.cast
    send(HOST, "begin_resource_claim", instance=instance_dict(number, node=NODES[0], **sized(vcpus=1)))


NOT_READY = "tracker_ready%s == 0"
FAULTS = (
    Fault(
        name="a cast that cannot be done",
        cause=parked,
        readyz=READY,
        metrics="sum(tracker_dead_letters_total%s) > 0",
        page=decision_parked,
        log="WARNING .*invalid_input",
        check=("warning", "dead_letters", "1 dead letter in the queue"),
    ),
    Fault(
        name="a notification queue is full",
        cause=full_queue,
        readyz=READY,
        metrics="sum(tracker_outbox_waiting%s) > 0",
        page=topic_waiting,
        log="notifications.info refuses messages: it is full",
        check=("warning", "outbox_age", "for topic notifications not published"),
        arguments=("--max-outbox-age=3",),
    ),
    Fault(
        name="the inventory driver fails for a node",
        cause=failing_driver,
        readyz=READY,
        metrics='tracker_nodes{state="stale"} > 0',
        page=node_stale,
        log=f"WARNING .*inventory of .*{NODES[1]}.*does not answer",
        check=("warning", "nodes", f"{HOST}/{NODES[1]}"),
    ),
    Fault(
        name="another session locks the host's rows",
        cause=locked_host,
        readyz="503 store_unavailable",
        metrics=NOT_READY,
        page=problem("store_unavailable"),
        log="WARNING .*lock timeout",
        check=("error", "health", "store_unavailable"),
    ),
    Fault(
        name="the database is silent (SIGSTOP)",
        cause=frozen_database,
        readyz="503 store_unavailable",
        metrics=NOT_READY,
        page=problem("store_unavailable"),
        log="WARNING .*the database is away",
        check=("error", "database", "cannot be used"),
    ),
    Fault(
        name="the database is stopped",
        cause=stopped_database,
        readyz="503 store_unavailable",
        metrics=NOT_READY,
        page=problem("store_unavailable"),
        log="WARNING .*the database is away",
        check=("error", "database", ""),
    ),
    Fault(
        name="the broker has a memory alarm",
        cause=alarm,
        readyz="503 broker_alarm",
        metrics="tracker_broker_alarm%s == 1",
        page=problem("broker_alarm"),
        log="WARNING .*the broker has blocked publishing",
        check=("error", "broker_alarm", "memory"),
    ),
    Fault(
        name="the consuming connection is half open",
        cause=blackhole,
        readyz="503 deaf",
        metrics=NOT_READY,
        page=problem("deaf"),
        log=r"WARNING .*not ready \(deaf\)",
        check=("error", "health", "deaf"),
    ),
    Fault(
        name="the broker is stopped",
        cause=stopped_broker,
        readyz="503 broker_unreachable",
        metrics="sum(tracker_broker_connected%s) == 0",
        page=problem("broker_unreachable"),
        log="WARNING .*no connection to ",
        check=("error", "broker", ""),
    ),
    Fault(
        name="the worker's user lacks a right on the broker",
        cause=missing_right,
        readyz="503 not_consuming",
        metrics=NOT_READY,
        page=problem("not_consuming"),
        log=f"WARNING .*the queue tracker.{HOST} is not consumed",
        check=("error", "broker_rights", f"to read from the queue tracker.{HOST}"),
    ),
    Fault(
        name="another ledger serves the host (seen at the second worker)",
        cause=other_ledger,
        readyz="503 other_ledger",
        metrics=NOT_READY,
        page=problem("other_ledger"),
        log="ERROR .*host adopt",
        check=("error", "other_ledger", f"host {HOST} of [tracker] hosts is owned by the ledger"),
        other=True,
    ),
    Fault(
        name="the worker hangs (SIGSTOP)",
        cause=suspended,
        readyz=NO_ANSWER,
        metrics="up%s == 0",
        page=None,
        log=None,
        check=("warning", "health", "no worker answers"),
    ),
    Fault(
        name="the worker is killed",
        cause=killed,
        readyz=NO_ANSWER,
        metrics="up%s == 0",
        page=None,
        log=None,
        check=("error", "host_consumers", f"tracker.{HOST}"),
    ),
)


@dataclass
class Story:
    """``lines``: the table. ``broken``: what is not as promised."""

    lines: list[str] = field(default_factory=lambda: [HEAD])
    broken: list[str] = field(default_factory=list)

    def tell(self, site: Site, fault: Fault) -> None:
        """Cause the fault, note what the signals say, end the fault, and wait until all is well."""
        site.wait_well()
        port = site.other_port if fault.other else site.port
        expression = fault.metrics.replace("%s", site.instance(port))
        wait_until(lambda: not site.prometheus.values(expression), f"Prometheus does not say yet: {expression}")
        log, offset = site.log, site.log.stat().st_size
        with fault.cause(site):
            began = time.monotonic()
            configuration = None
            if fault.other:
                log, offset = site.configuration.with_name("other") / "worker.log", 0
                configuration = log.with_name("worker.conf")
            asks = {
                "readyz": signals.readyz(port, fault.readyz),
                "metrics": signals.metrics(site.prometheus, expression),
                "page": signals.page(port, fault.page),
                "log": signals.log(log, offset, fault.log),
                "check": signals.check(site.checking(*fault.arguments, configuration=configuration), *fault.check),
            }
            found = Watch(asks).agreement(began, at_most=_MOST_SECONDS)
        self.lines.append(row(fault.name, found, at_most=_MOST_SECONDS))
        print(self.lines[-1], f"[{time.monotonic() - began:.1f} s]", flush=True)
        if found.wrong or max(found.seconds.values()) > PROMISED_SECONDS:
            self.broken.append(self.lines[-1])


@pytest.mark.timeout(600)
def test_every_signal_says_the_same_true_thing_within_15_seconds_of_each_fault(
    rabbitmq: RabbitMQServer, postgresql: PostgreSQLServer, tmp_path: Path
) -> None:
    rabbitmq.ensure_running()
    postgresql.ensure_running()
    story = Story()
    with ExitStack() as stack:
        stack.callback(rabbitmq.ensure_running)
        site = Site(tmp_path, rabbitmq=rabbitmq, postgresql=postgresql, stack=stack)
        site.wait_well()
        assert site.problems() == []
        for fault in FAULTS:
            story.tell(site, fault)
        site.wait_well()
        assert site.problems() == []
        assert site.worker.terminate() == 0
    table = "\n".join(story.lines)
    print(f"\n{table}")
    if path := os.environ.get("STORY_TABLE"):
        Path(path).write_text(f"{table}\n", encoding="utf-8")
    assert not story.broken, "\n".join(story.broken)
