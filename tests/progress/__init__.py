# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.progress``: two workers under load for minutes without a fault, and nobody may have to wait."""
