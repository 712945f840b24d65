# SPDX-License-Identifier: Apache-2.0
"""What commands print with --format json, as types, and the JSON Schemas that are made of them."""
