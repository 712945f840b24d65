# SPDX-License-Identifier: Apache-2.0
"""To be imported before anything that imports oslo.messaging, by programs only: chooses threads for oslo.service, which
oslo.messaging would otherwise make eventlet's, for the whole process."""

import warnings

# futurist looks whether eventlet is there, and eventlet says on stderr that nobody should use it. Nobody here does.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

from oslo_service import backend  # noqa: E402

backend.init_backend(backend.BackendType.THREADING)
