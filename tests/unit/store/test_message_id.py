# SPDX-License-Identifier: Apache-2.0
"""The id by which a consumer recognises a copy of a notification."""

from __future__ import annotations

from uuid import UUID, uuid5

import pytest

from tracker_worker.notifications.render import message_id

# Published with the first release: with another namespace, a replayed notification would look new to consumers.
NAMESPACE = UUID("5c0d1b0e-6f0c-5b52-9f9b-3d6f0f3c7f11")


@pytest.mark.parametrize("host", ["host-1", "höst", ""])
def test_a_message_id_is_a_name_based_uuid(host: str) -> None:
    for sequence in range(1, 200):
        assert message_id(host, "node-1", sequence) == str(uuid5(NAMESPACE, f"{host}\0node-1\0{sequence}"))
