# SPDX-License-Identifier: Apache-2.0
"""The command line: the program ``tracker-worker`` and its subcommands."""
