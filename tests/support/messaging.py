# SPDX-License-Identifier: Apache-2.0
"""To be imported before anything that imports oslo.messaging: whoever is first chooses between threads and eventlet for the
whole process."""

from __future__ import annotations

import sys
import warnings

# Whatever looks whether eventlet is there shall not find it: once imported, it warns at every fork.
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]

with warnings.catch_warnings():
    # Some of what oslo.messaging imports is deprecated; that is its matter.
    warnings.simplefilter("ignore")
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)

    import oslo_messaging  # noqa: F401
