# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker rabbitmq``: what an administrator of RabbitMQ has to set up."""

from __future__ import annotations

import shlex

import click

from tracker_worker.cli.context import Commands, Settings, example, keep_logs_quiet

_ROLES = ("worker", "scheduler", "billing", "operator")


@click.group(cls=Commands, epilog=example("rabbitmq permissions --role worker --host compute-1"))
def rabbitmq() -> None:
    """Print commands for the administrator of RabbitMQ."""


@rabbitmq.command(epilog=example("rabbitmq permissions --role worker --host h1 --user h1"))
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    required=True,
    help="What the user does: it serves hosts, sends requests, listens to notifications, or runs this program's commands.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="A host that the worker serves, or to which a scheduler or an operator may send requests; repeatable.  [default: "
    "for a worker those of [tracker] hosts, else every host]",
)
@click.option("--user", metavar="NAME", help="The user.  [default: the name of the role]")
@click.option("--vhost", metavar="NAME", help="The virtual host.  [default: that of [DEFAULT] transport_url, else /]")
@click.pass_obj
def permissions(settings: Settings, role: str, hosts: tuple[str, ...], user: str | None, vhost: str | None) -> None:
    """Print the rabbitmqctl commands that give a user the rights of its role, and no others.

    Nothing is sent to the broker. The names of exchanges and queues are those of the configuration. Give the worker of each
    machine a user of its own: a worker can use only the queues of its own hosts then.
    """
    conf = settings.load()  # imports oslo.messaging as a command has to, and therefore comes before these

    from tracker_worker.bus.amqp.rights import WORKER, rights_of
    from tracker_worker.bus.settings import read_settings
    from tracker_worker.conf.names import check_host_name, check_names
    from tracker_worker.conf.reading import is_set

    keep_logs_quiet(conf)
    if not is_set(conf, "DEFAULT", "transport_url"):
        conf.set_override("transport_url", "rabbit://localhost/")  # only its virtual host is of interest
    check_names(conf)
    for host in hosts:
        check_host_name("--host", host, conf.tracker.topic)
    named = list(dict.fromkeys(hosts or (conf.tracker.hosts if role == WORKER else ())))
    broker = read_settings(conf)
    rights = rights_of(role, broker, named, conf.bus.reply_queue_prefixes)
    where = ["-p", broker.virtual_host if vhost is None else vhost, role if user is None else user]
    names = [rights.configure, rights.write, rights.read]
    for command in (
        ["rabbitmqctl", "set_permissions", *where, *names],
        ["rabbitmqctl", "set_topic_permissions", *where, rights.exchange, rights.publish, rights.bind],
    ):
        click.echo(shlex.join(command))
