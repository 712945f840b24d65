# SPDX-License-Identifier: Apache-2.0
"""oslo.messaging, imported without a warning that is not ours to give.

A library of oslo.messaging's looks whether eventlet is installed, and eventlet then warns on stderr that nobody should use it.
Nobody here does. The filter holds for this import only.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    import oslo_messaging
    from oslo_messaging import opts
    from oslo_messaging.rpc.dispatcher import NoSuchMethod, UnsupportedVersion

__all__ = ["NoSuchMethod", "UnsupportedVersion", "opts", "oslo_messaging"]
