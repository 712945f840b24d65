# SPDX-License-Identifier: Apache-2.0
"""doc/user/asyncapi.json, made from the code. ``python -m tests.support.asyncapi`` writes it again."""

from __future__ import annotations

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
