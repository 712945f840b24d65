# SPDX-License-Identifier: Apache-2.0
"""Configuration. The ConfigOpts object is passed in, never imported."""

from tracker_worker.conf.opts import list_opts, register_opts

__all__ = ["list_opts", "register_opts"]
