# SPDX-License-Identifier: Apache-2.0
"""Selects threads as oslo.service's backend for the whole process.

Programs import this module before oslo.messaging, because oslo.messaging would otherwise select eventlet for the whole
process. A library must not import it: the backend is the program's choice.
"""

import warnings

# futurist imports eventlet where eventlet is installed, and eventlet then prints a deprecation warning. No code here uses it.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

from oslo_service import backend  # noqa: E402

backend.init_backend(backend.BackendType.THREADING)
