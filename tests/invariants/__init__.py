# SPDX-License-Identifier: Apache-2.0
"""The invariant checker: nothing lost, nothing twice. See README.md."""
