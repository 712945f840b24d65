# SPDX-License-Identifier: Apache-2.0
"""Any commands in any order on two databases, compared with a naive ledger and with what a consumer of the notifications knows.

``oracle.py`` says what each command must do, ``world.py`` does it with the real ledgers and stores, ``ear.py`` is the consumer,
and ``machine.py`` draws the commands.
"""
