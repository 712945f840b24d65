# SPDX-License-Identifier: Apache-2.0
"""The rules of the ledger. The code is pure: it does no I/O and no logging, and uses no clock, no random identifier and no
configuration object.

Times are integers, microseconds since 1970-01-01T00:00:00Z. Sizes are integers in the unit of their resource class.
"""
