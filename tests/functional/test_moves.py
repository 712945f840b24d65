# SPDX-License-Identifier: Apache-2.0
"""Moves between hosts of two workers with a database each, whose processes are killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from oslo_config import cfg

from tests.functional.fleet import Fleet
from tests.invariants.collect import wait_relayed
from tests.invariants.listening import listener
from tests.model.scheduling import Scheduler
from tests.support.deadline import SECONDS
from tracker_worker.bus.settings import read_connection
from tracker_worker.client.pipelined import PipelinedTransport
from tracker_worker.conf.opts import register_client_opts, register_messaging_opts

ACTS = int(os.environ.get("MOVES_ACTS", "80"))
"""What schedulers do, one thing after the other; about two steps of a move each."""
_KILLED = 0.03


@pytest.fixture
def fleet(tmp_path: Path, broker_vhost: str) -> Iterator[Fleet]:
    conf = cfg.ConfigOpts()
    conf([], project="scheduler", default_config_files=[], default_config_dirs=[])
    register_messaging_opts(conf)
    register_client_opts(conf)
    conf.set_override("transport_url", broker_vhost)
    client = PipelinedTransport(read_connection(conf), SECONDS)
    client.start()
    made = Fleet(Random(os.environ.get("MOVES_SEED", "1")), tmp_path, broker_vhost, client, killed=_KILLED)
    yield made
    made.close()
    client.stop()


@pytest.mark.timeout(120 + 2 * ACTS)
def test_every_instance_is_charged_once_and_billed_without_a_gap(
    fleet: Fleet, tmp_path: Path, broker_vhost: str
) -> None:
    with listener(broker_vhost) as listening:
        fleet.start()
        scheduler = Scheduler(fleet)
        for _ in range(ACTS):
            scheduler.act()
        for url in Fleet.urls(tmp_path).values():
            wait_relayed(url, listening)
        heard = {(one.place, one.sequence): one for one in listening.heard}
    for _, one in sorted(heard.items()):
        fleet.bill.add(one.event_type, one.payload)
    for instance in fleet.instances:
        fleet.check_bill(instance)
    assert fleet.kills
    assert fleet.steps > ACTS // 5
