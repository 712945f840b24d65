# SPDX-License-Identifier: Apache-2.0
"""One worker, and two workers that share a database."""
