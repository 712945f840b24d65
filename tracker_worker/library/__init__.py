# SPDX-License-Identifier: Apache-2.0
"""The resource tracker as a library."""
