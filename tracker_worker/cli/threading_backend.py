# SPDX-License-Identifier: Apache-2.0
"""Selects threads as oslo.service's backend for the whole process.

Programs import this module before oslo.messaging, because oslo.messaging would otherwise select eventlet for the whole
process. A library must not import it: the backend is the program's choice.
"""

import sys

# oslo and futurist import eventlet where that is installed. No code here uses it; its import takes a sixth of the time in which
# a command starts, and prints a deprecation warning. None: it fails as where eventlet is not installed.
_absent = "eventlet" not in sys.modules
if _absent:
    sys.modules["eventlet"] = None  # type: ignore[assignment]

from oslo_service import backend  # noqa: E402

backend.init_backend(backend.BackendType.THREADING)

import oslo_messaging  # noqa: E402, F401

if _absent:
    del sys.modules["eventlet"]  # for whoever needs it, as a driver may
