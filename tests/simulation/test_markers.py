# SPDX-License-Identifier: Apache-2.0
"""The markers of hosts on a broker that ends connections at any moment."""

from __future__ import annotations

import pytest

from tests.simulation.broker import TOPIC
from tests.simulation.world import World


@pytest.mark.parametrize("blocked", [False, True])
def test_a_worker_writes_a_marker_that_it_has_made_whenever_the_connection_is_lost(blocked: bool) -> None:
    """Without it, the worker would take the empty marker for that of another program, until an operator adopts the host."""
    world = World(1, hosts=1, workers=1, clients=0)
    stage, broker, name = world.stage, world.broker, f"{TOPIC}_ledger.h1"
    if blocked:
        broker.block()
        stage.later(20, broker.unblock)
    broken = []

    def look() -> None:
        if name not in broker.queues:
            stage.later(0.0001, look)
            return
        broken.append(stage.now)
        for session in list(broker.sessions):
            stage.later(0.004, lambda session=session: session.close(320, "CONNECTION_FORCED"))

    stage.later(0, look)
    world.start()
    stage.run(60)
    assert broken
    [site] = world.sites
    assert site.worker is not None
    assert site.worker.ready()
    assert len(broker.queues[name].ready) == 1
    stage.close()
