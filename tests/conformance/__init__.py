# SPDX-License-Identifier: Apache-2.0
"""One suite for each port. Each implementation of the port is tested by a subclass of the suite."""

import pytest

# The suites are not test modules, so pytest rewrites their assertions only if they are registered here.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "bus",
            "bus_amqp",
            "bus_receiving",
            "bus_sending",
            "bus_workers",
            "store",
            "store_chores",
            "store_commits",
            "store_concurrency",
            "store_deletions",
            "store_histories",
            "store_hosts",
            "store_instance_moves",
            "store_locks",
            "store_moves",
            "store_silent",
            "store_sql",
            "store_topics",
        )
    )
)
