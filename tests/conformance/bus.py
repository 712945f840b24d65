# SPDX-License-Identifier: Apache-2.0
"""The contract of every bus. An implementation is tested by a subclass of ``BusContract`` that provides the fixture
``outside``.

To show that a message does not arrive, a test waits for a later message of the same queue.
"""

from __future__ import annotations

from tests.conformance.bus_receiving import EmptyContract, LostContract, ReceiveContract, SettleContract
from tests.conformance.bus_sending import RepairContract, TellContract
from tests.conformance.bus_workers import ContactContract, StartStopContract, TwoWorkersContract


class BusContract(
    ReceiveContract,
    EmptyContract,
    SettleContract,
    LostContract,
    TellContract,
    RepairContract,
    ContactContract,
    TwoWorkersContract,
    StartStopContract,
):
    """The whole contract."""
