# SPDX-License-Identifier: Apache-2.0
"""Selects threads as oslo.service's backend for the whole process.

Programs import this module before oslo.messaging, because oslo.messaging would otherwise select eventlet for the whole
process. A library must not import it: the backend is the program's choice.
"""

import sys
import warnings

# A driver may import eventlet, which then prints a deprecation warning.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

# oslo and futurist import eventlet where that is installed. No code here uses it, and its import takes a sixth of the time in
# which a command starts. None: it fails as where eventlet is not installed.
_absent = "eventlet" not in sys.modules
if _absent:
    sys.modules["eventlet"] = None  # type: ignore[assignment]
try:
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)

    import oslo_messaging  # noqa: F401
finally:
    if _absent:
        del sys.modules["eventlet"]
