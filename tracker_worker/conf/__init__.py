# SPDX-License-Identifier: Apache-2.0
"""The configuration options. Callers pass the ConfigOpts object in; no module imports a global one."""

from tracker_worker.conf.opts import list_opts, register_opts, register_own_opts

__all__ = ["list_opts", "register_opts", "register_own_opts"]
