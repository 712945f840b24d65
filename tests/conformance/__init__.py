# SPDX-License-Identifier: Apache-2.0
"""One suite per port, and each implementation of the port as a subclass of it."""

import pytest

# The suites are no test modules themselves; a claim that fails there shall say as much as one in a test module.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "bus",
            "bus_amqp",
            "store",
            "store_chores",
            "store_commits",
            "store_concurrency",
            "store_sql",
        )
    )
)
