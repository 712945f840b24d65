# SPDX-License-Identifier: Apache-2.0
"""Import this module before any module that imports oslo.messaging: the first import chooses between threads and eventlet for
the whole process.
"""

from __future__ import annotations

import sys
import warnings

# Libraries that probe for eventlet must not find it: once imported, it warns at every fork.
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]

with warnings.catch_warnings():
    # Some modules that oslo.messaging imports are deprecated; the warnings are not about this project.
    warnings.simplefilter("ignore")
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)

    import oslo_messaging  # noqa: F401
