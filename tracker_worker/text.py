# SPDX-License-Identifier: Apache-2.0
"""Texts from outside, made fit for people and for every reader."""

from __future__ import annotations

import traceback

MAX_CHARACTERS = 1000
"""The most characters of an outside text that a log line, an error or a header quotes."""

_MOST_FRAMES = 10


def printable(text: str, limit: int = MAX_CHARACTERS) -> str:
    r"""``text`` as at most ``limit`` characters that can be seen: in a log, on a terminal, in JSON and in an AMQP header.

    What is not printable in the sense of ``str.isprintable`` is escaped: control characters, line breaks, escape sequences,
    marks that change the direction of writing, lone surrogates (``\n``, ``\x1b``, ``\u202e``). A text that is longer ends with
    ``...``.
    """
    if len(text) <= limit and text.isprintable():
        return text
    # A character becomes at least one: no more of them than the limit are of any use.
    shown = "".join([char if char.isprintable() else _escaped(char) for char in text[: limit + 1]])
    return shown if len(shown) <= limit else f"{shown[: max(0, limit - 3)]}..."


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 instance``, ``2 instances``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def described(error: BaseException) -> str:
    """An error that one message caused, for the log: its type, its text, which may quote anything, made printable, and where
    it was raised."""
    stack = "".join(traceback.format_tb(error.__traceback__, limit=-_MOST_FRAMES))
    return f"{type(error).__name__}: {printable(str(error))}\n{stack}".rstrip()


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
