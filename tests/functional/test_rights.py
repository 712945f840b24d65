# SPDX-License-Identifier: Apache-2.0
"""Every program with exactly the rights that ``rabbitmq permissions`` prints: what it must do works, and what it must not do is
refused by the broker with 403.

The file is long because what a program may and what it may not do are told together, on one broker and by the same users.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
from amqp.exceptions import AccessRefused, ResourceLocked
from oslo_config import cfg

from tests.functional.conftest import MakeWorker
from tests.functional.test_cli import Operator
from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.builders import instance_dict, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.health import LISTENING, readyz
from tests.support.rights import Users, users_of
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker import errors
from tracker_worker.client.pipelined import TrackerClient
from tracker_worker.conf.opts import register_messaging_opts

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

CONTEXT = {"project_id": "astronomy", "user_id": "galileo"}
LIMITS = {"vcpu": 64}
HOSTS = ("h1", "h2")


class Site:
    """Two workers, one for each host, and a user for each role."""

    def __init__(self, users: Users, directory: Path) -> None:
        users.make_all(
            {
                **{role: (role,) for role in ("scheduler", "billing", "operator")},
                "scheduler-h1": ("scheduler", "h1"),
                **{f"worker-{host}": ("worker", host) for host in HOSTS},
            }
        )
        self.scheduler, self.billing, self.operator = (users.url(role) for role in ("scheduler", "billing", "operator"))
        self.workers: dict[str, WorkerProcess] = {}
        for host in HOSTS:
            (home := directory / host).mkdir()
            url = users.url(f"worker-{host}")
            self.workers[host] = WorkerProcess(home, transport_url=url, hosts={host: {"n1": NODE}})
        self.users = users

    def commands(self, host: str, user_url: str) -> Operator:
        """An operator at the machine of a host, with another user of the broker."""
        worker = self.workers[host]
        home = worker.directory / "operator"
        home.mkdir(exist_ok=True)
        state = {"tracker": {"state_path": worker.directory / "state"}}
        return Operator(WorkerProcess(home, transport_url=user_url, hosts={host: {"n1": NODE}}, options=state))


@pytest.fixture(scope="module")
def site(rabbitmq: RabbitMQServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    rabbitmq.ensure_running()
    directory = tmp_path_factory.mktemp("site")
    with users_of(rabbitmq, rabbitmq.virtual_host_url(), directory) as users, ExitStack() as stack:
        made = Site(users, directory)
        for worker in made.workers.values():
            stack.callback(worker.close)
            worker.start()
        for worker in made.workers.values():
            worker.wait_ready()
        yield made
        for worker in made.workers.values():
            assert "ACCESS_REFUSED" not in worker.log()
            assert worker.terminate() == 0


@pytest.fixture
def scheduler(site: Site) -> Iterator[stock.Client]:
    with stock.client(site.scheduler) as client:
        yield client


def end(client: stock.Client, *numbers: int) -> None:
    for number in numbers:
        client.cast("h1", "update_usage", instance={"uuid": uuid(number), "vm_state": "deleted"})


def wait_heard(listener: stock.Listener, sequence: int) -> None:
    """Wait for a notification of the first host; other listeners may have taken earlier ones."""
    wait_until(lambda: sequence in {one.sequence for one in listener.heard("h1", "n1")}, f"notification {sequence}")


# --- what has to work ------------------------------------------------------------------------------------------------


def test_a_claim_of_a_stock_scheduler_is_heard_by_a_stock_listener_and_by_watch(
    site: Site, scheduler: stock.Client, tmp_path: Path
) -> None:
    watching = site.commands("h1", site.billing).watching(tmp_path)
    with stock.listener(site.billing) as listener, watching as watch:
        before = scheduler.call("h1", "get_node")["sequence"]
        claim = scheduler.call("h1", "begin_resource_claim", instance=instance_dict(1), limits=LIMITS)
        scheduler.call("h1", "finish_resource_claim", claim_id=claim["claim_id"])
        end(scheduler, 1)

        wait_heard(listener, before + 3)
        assert [line.split()[1] for line in watch.wait_lines(3)[-3:]] == [
            "tracker.claim.begun",
            "tracker.claim.finished",
            "tracker.usage.released",
        ]


def test_the_shared_topic_fanouts_and_refusals_reach_a_stock_scheduler(site: Site, scheduler: stock.Client) -> None:
    assert {scheduler.call(None, "list_nodes")[0]["host"] for _ in range(4)} <= {"h1", "h2"}
    with pytest.raises(errors.ComputeResourcesUnavailable):
        scheduler.call("h2", "begin_resource_claim", instance=instance_dict(2), limits={"vcpu": 1})
    scheduler.fanout("begin_resource_claim", instance=instance_dict(3), host="h1")
    wait_until(lambda: scheduler.call("h1", "list_claims"), "the claim of a fanout")
    end(scheduler, 3)


def test_the_pipelined_client_claims(site: Site, scheduler: stock.Client) -> None:
    conf = cfg.ConfigOpts()
    conf([], project="scheduler", default_config_files=[], default_config_dirs=[])
    register_messaging_opts(conf)
    conf.set_override("transport_url", site.scheduler)
    conf.set_override("rpc_response_timeout", SECONDS)
    with TrackerClient(conf) as tracker:
        for begun in tracker.begin_many(CONTEXT, "h1", [(instance_dict(number), LIMITS) for number in (4, 5)]):
            claim = begun.result()
            assert claim is not None
            tracker.finish_resource_claim(CONTEXT, "h1", claim["claim_id"])
    end(scheduler, 4, 5)


def test_an_operator_sees_to_dead_letters_claims_and_the_outbox(site: Site, scheduler: stock.Client) -> None:
    operator = site.commands("h1", site.operator)
    scheduler.cast("h1", "finish_resource_claim", claim_id="no-such-claim", more="than there is")
    letters = wait_until(lambda: operator.json("dead-letter", "list"), "the dead letter")
    assert [letter["code"] for letter in letters] == ["invalid_input"]
    # It is sent again, and parked again.
    assert operator.json("dead-letter", "replay", "--all")[0]["replayed"] is True
    wait_until(lambda: operator.json("dead-letter", "list"), "the dead letter again")
    assert operator.json("dead-letter", "purge", "--all", "--yes") == {"removed": 1}

    size = ("--vcpus", "1", "--memory-mb", "512", "--root-gb", "1")
    claim = operator.json("claim", "begin", "--host", "h1", *size, "--project", "p1")
    assert operator.json("claim", "abort", claim["claim_id"], "--host", "h1")["claim_id"] == claim["claim_id"]
    assert operator.run("audit", "--host", "h1").returncode == 0
    assert operator.run("audit", "--all").returncode == 0

    with stock.listener(site.billing) as listener:
        again = operator.run("outbox", "replay", "--host", "h1", "--node", "n1", "--from-sequence", "1")
        assert again.returncode == 0, again
        wait_heard(listener, 1)


def test_a_worker_starts_again_and_an_operator_adopts_its_host(site: Site, scheduler: stock.Client) -> None:
    worker = site.workers["h2"]
    assert worker.terminate() == 0
    adopted = site.commands("h2", site.operator).run("host", "adopt", "h2")
    assert adopted.returncode == 0, adopted
    worker.start()
    worker.wait_ready()
    assert scheduler.call("h2", "oslo_rpc_server_ping") == "pong"


def test_a_deleted_control_exchange_is_there_again_and_requests_and_notifications_go_on(
    site: Site, scheduler: stock.Client
) -> None:
    """It cannot be forbidden: who may declare the exchange, as stock clients do, may delete it."""
    with raw.connect(site.scheduler) as amqp_:
        amqp_.channel.exchange_delete(raw.EXCHANGE)

    wait_until(lambda: ping(scheduler, "h1") and ping(scheduler, "h2"), "requests reach both hosts again")
    with stock.listener(site.billing) as listener:
        before = scheduler.call("h1", "get_node")["sequence"]
        scheduler.call("h1", "begin_resource_claim", instance=instance_dict(6))
        wait_heard(listener, before + 1)
    end(scheduler, 6)


def ping(client: stock.Client, host: str) -> bool:
    try:
        return bool(client.prepare(host, timeout=1).call(stock.CONTEXT, "oslo_rpc_server_ping") == "pong")
    except stock.UNANSWERED:
        return False


# --- what the broker refuses -----------------------------------------------------------------------------------------


@pytest.fixture
def attempt() -> Iterator[Callable[[str, Callable[[Any], object]], None]]:
    """Checks that the broker answers 403 to what is done on a channel of the user with this transport URL."""
    with ExitStack() as stack:

        def check(url: str, action: Callable[[Any], object]) -> None:
            connection = stack.enter_context(kombu.Connection(url.replace("rabbit://", "amqp://", 1)))
            channel = connection.channel()
            with pytest.raises(AccessRefused) as refused:
                action(channel)
            assert refused.value.reply_code == 403

        yield check


Attempt = Callable[[str, Callable[[Any], object]], None]


def publish(channel: Any, exchange: str, key: str) -> None:
    channel.basic_publish_confirm(amqp.Message(b"{}"), exchange=exchange, routing_key=key, timeout=20)


@pytest.mark.parametrize("key", ["notifications.info", "notifications.warn", "tracker_ledger.h1"])
def test_a_scheduler_forges_no_notification(site: Site, attempt: Attempt, key: str) -> None:
    attempt(site.scheduler, lambda channel: publish(channel, raw.EXCHANGE, key))


def test_a_scheduler_of_one_host_sends_requests_to_no_other(site: Site, attempt: Attempt) -> None:
    url = site.users.url("scheduler-h1")
    with stock.client(url) as client:
        assert client.call("h1", "oslo_rpc_server_ping") == "pong"
    attempt(url, lambda channel: publish(channel, raw.EXCHANGE, "tracker.h2"))


@pytest.mark.parametrize("key", ["tracker.h1", "tracker.dead", "notifications.info", "tracker_ledger.h1"])
@pytest.mark.parametrize("role", ["scheduler", "billing"])
def test_nothing_goes_past_the_control_exchange(site: Site, attempt: Attempt, role: str, key: str) -> None:
    attempt(getattr(site, role), lambda channel: publish(channel, "", key))


@pytest.mark.parametrize("key", ["tracker.h1", "tracker", "notifications.info"])
def test_billing_publishes_nothing(site: Site, attempt: Attempt, key: str) -> None:
    attempt(site.billing, lambda channel: publish(channel, raw.EXCHANGE, key))


OF_OTHERS = ("tracker.h1", "#", "*.h1", "tracker.#")


@pytest.mark.parametrize(
    ("user", "queue", "key"),
    [
        ("billing", "notifications.spy", "tracker"),
        *(("billing", "notifications.spy", key) for key in OF_OTHERS),
        *(("worker-h2", "tracker_fanout_spy", key) for key in OF_OTHERS),
    ],
)
def test_nobody_binds_a_queue_to_the_requests_of_others(
    site: Site, attempt: Attempt, user: str, queue: str, key: str
) -> None:
    def spy(channel: Any) -> None:
        channel.queue_declare(queue, exclusive=True, auto_delete=True)
        channel.queue_bind(queue, raw.EXCHANGE, key)

    attempt(site.users.url(user), spy)


def test_billing_binds_no_exchange_to_the_requests_either(site: Site, attempt: Attempt) -> None:
    def spy(channel: Any) -> None:
        channel.exchange_declare("notifications.spy", "fanout", auto_delete=True)
        channel.exchange_bind("notifications.spy", raw.EXCHANGE, "#")

    attempt(site.billing, spy)


def test_a_scheduler_binds_nothing_to_the_control_exchange(site: Site, attempt: Attempt) -> None:
    def spy(channel: Any) -> None:
        channel.queue_declare("reply_spy", exclusive=True, auto_delete=True)
        channel.queue_bind("reply_spy", raw.EXCHANGE, "#")

    attempt(site.scheduler, spy)


@pytest.mark.parametrize(
    ("user", "queue"),
    [
        ("worker-h2", "tracker.h1"),
        ("worker-h2", "tracker_ledger.h1"),
        ("worker-h2", "notifications.info"),
        ("worker-h2", "tracker.dead"),
        ("scheduler", "tracker.h1"),
        ("scheduler", "notifications.info"),
        ("billing", "tracker.h1"),
        ("billing", "tracker.dead"),
        ("operator", "tracker.h1"),
        ("operator", "notifications.info"),
    ],
)
def test_nobody_consumes_the_queue_of_another(site: Site, attempt: Attempt, user: str, queue: str) -> None:
    attempt(site.users.url(user), lambda channel: channel.basic_consume(queue))
    attempt(site.users.url(user), lambda channel: channel.basic_get(queue))
    attempt(site.users.url(user), lambda channel: channel.queue_purge(queue))


@pytest.mark.parametrize(
    ("user", "queue"),
    [
        ("scheduler", "tracker.h1"),
        ("scheduler", "tracker"),
        ("scheduler", "tracker_ledger.h1"),
        ("scheduler", "tracker.dead"),
        ("scheduler", "notifications.info"),
        ("billing", "tracker.h1"),
        ("billing", "tracker_ledger.h1"),
        ("billing", "tracker.dead"),
        ("worker-h2", "tracker.h1"),
        ("worker-h2", "tracker_ledger.h1"),
        ("operator", "tracker.h1"),
        ("operator", "tracker.dead"),
    ],
)
def test_nobody_deletes_the_queue_of_another(site: Site, attempt: Attempt, user: str, queue: str) -> None:
    attempt(site.users.url(user), lambda channel: channel.queue_delete(queue))


def test_a_worker_answers_for_no_other_host_and_takes_no_other_hosts_marker(site: Site, attempt: Attempt) -> None:
    url = site.users.url("worker-h2")
    attempt(url, lambda channel: publish(channel, raw.EXCHANGE, "tracker.h1"))
    attempt(url, lambda channel: channel.queue_declare("tracker_ledger_lock.h1", exclusive=True, auto_delete=True))
    attempt(url, lambda channel: channel.queue_declare("tracker.h3", durable=True))


def test_the_fanout_queue_of_a_worker_is_its_own(site: Site, rabbitmq: RabbitMQServer) -> None:
    vhost = site.scheduler.rpartition("/")[2]
    listed = rabbitmq.ctl("list_queues", "-p", vhost, "name", "exclusive").split()
    exclusive = [name for name in listed if name.startswith("tracker_fanout_")]
    assert len(exclusive) == 2
    with kombu.Connection(site.users.url("worker-h2").replace("rabbit://", "amqp://", 1)) as connection:
        for name in exclusive:
            with pytest.raises(ResourceLocked):
                connection.channel().basic_consume(name)


# --- queues that an administrator has declared -----------------------------------------------------------------------


@pytest.mark.long
def test_a_worker_needs_no_right_to_configure_what_is_declared(
    rabbitmq: RabbitMQServer, broker_vhost: str, make_worker: MakeWorker, tmp_path: Path
) -> None:
    durable = {"oslo_messaging_rabbit": {"amqp_durable_queues": True}}
    with users_of(rabbitmq, broker_vhost, tmp_path) as users:
        worker = make_worker(
            hosts={"h1": {"n1": NODE}}, options=durable, transport_url=users.make("worker", "h1", name="declared")
        )
        worker.start()
        worker.wait_ready()
        assert worker.terminate() == 0
        # The fanout queue is of one connection alone, and the fanout exchange goes with the last of them.
        per_connection = r"tracker_fanout|tracker_fanout_.+|tracker_ledger_lock\.h1|reply_ledger_.+"
        write = r"^(amq\.default|openstack|tracker|tracker\.h1|tracker_fanout_.+|notifications\..+)$"
        read = r"^(openstack|tracker|tracker_fanout|tracker\.h1|tracker_fanout_.+|tracker_ledger\.h1|reply_ledger_.+)$"
        users.set("declared", f"^({per_connection})$", write, read)

        worker.start()
        worker.wait_ready()
        with (
            stock.client(broker_vhost, amqp_durable_queues=True) as client,
            stock.listener(broker_vhost, amqp_durable_queues=True) as listener,
        ):
            before = client.call("h1", "get_node")["sequence"]
            client.call("h1", "begin_resource_claim", instance=instance_dict(1))
            wait_heard(listener, before + 1)
            client.cast("h1", "finish_resource_claim", wrong=1)
            with raw.connect(broker_vhost) as amqp_:
                amqp_.take(raw.DEAD_LETTERS)
        assert worker.terminate() == 0


@pytest.mark.long
def test_without_rights_for_one_host_a_worker_names_them_and_serves_the_others(
    rabbitmq: RabbitMQServer, broker_vhost: str, make_worker: MakeWorker, tmp_path: Path, client: stock.Client
) -> None:
    with users_of(rabbitmq, broker_vhost, tmp_path) as users:
        url = users.make("worker", "h1", name="narrow")
        worker = make_worker(hosts={"h1": {"n1": NODE}, "h2": {"n1": NODE}}, transport_url=url)
        worker.start()
        worker.wait_for_log("host h2 is not served: ")
        assert client.call("h1", "oslo_rpc_server_ping") == "pong"
        (said,) = [line for line in worker.log().splitlines() if "host h2 is not served" in line]
        assert "access to queue 'tracker_ledger.h2'" in said
        assert "tracker-worker rabbitmq permissions --role worker" in said
        assert "Traceback" not in worker.log()


def test_without_the_right_to_read_one_hosts_queue_a_worker_names_it_and_serves_the_others(
    rabbitmq: RabbitMQServer, broker_vhost: str, make_worker: MakeWorker, tmp_path: Path, client: stock.Client
) -> None:
    with users_of(rabbitmq, broker_vhost, tmp_path) as users:
        url = users.make("worker", *HOSTS, name="reader")
        (plain, _) = users.printed("--role=worker", "--user=reader", *(f"--host={host}" for host in HOSTS))
        configure, write, read = shlex.split(plain)[-3:]
        users.set("reader", configure, write, read.replace(r"tracker\.h2|", "", 1))
        worker = make_worker(hosts={host: {"n1": NODE} for host in HOSTS}, transport_url=url, options=LISTENING)
        worker.start()
        worker.wait_for_log("the queue tracker.h2 is not consumed: ")
        assert client.call("h1", "oslo_rpc_server_ping") == "pong"
        wait_until(lambda: readyz(worker).codes == ["not_consuming"], lambda: f"{readyz(worker).body!r}")
        connected = worker.log().count("tracker-consumer: connected")

        users.set("reader", configure, write, read)
        assert client.call("h2", "oslo_rpc_server_ping") == "pong"
        wait_until(lambda: readyz(worker).status == 200, lambda: f"{readyz(worker).body!r}")
        assert worker.log().count("tracker-consumer: connected") == connected
        assert worker.log().count("ACCESS_REFUSED") == 1
        assert worker.terminate() == 0
