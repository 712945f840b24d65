# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.chaos``: random faults under load for minutes, and the proof at the end that the books balance."""
