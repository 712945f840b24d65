# SPDX-License-Identifier: Apache-2.0
"""The worker: requests in, decisions kept, replies and notifications out."""
