# SPDX-License-Identifier: Apache-2.0
"""The layout of tables in a terminal of a given width.

Names and figures are never folded: a name in two pieces can neither be searched nor copied. Where not everything fits, prose is
wrapped between its words; then the columns that do not fit are left out, the least important first; and where not even the
columns fit that name a row, each row becomes a block with one field a line, which has room for every column. A line is wider
than the terminal only if one word is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_GAP = 2
# Prose in a narrower column would be one word a line.
_LEAST_PROSE = 24
_BLANK = ("", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table. ``priority`` 0: it names the row and is always shown; of the others, the largest is left out first.
    ``figure``: aligned to the right; ``prose``: may be wrapped between words."""

    title: str
    priority: int = 0
    figure: bool = False
    prose: bool = False


def column(title: str, priority: int = 0) -> Column:
    """A column of names, times or states."""
    return Column(title=title, priority=priority)


def figure(title: str, priority: int) -> Column:
    """A column of figures."""
    return Column(title=title, priority=priority, figure=True)


def prose(title: str, priority: int) -> Column:
    """A column of texts, or of lists of words."""
    return Column(title=title, priority=priority, prose=True)


class Table:
    """A table whose rows come page by page. ``width`` is that of the terminal in columns; None: there is no limit. With
    ``everything`` no column is left out. ``hidden``: the titles of the columns that were left out so far. Belongs to one
    thread."""

    def __init__(
        self, columns: Sequence[Column], *, width: int | None, everything: bool = False, rule: str = "-"
    ) -> None:
        """``rule`` is the character of the line below the titles."""
        self.hidden: list[str] = []
        self._columns = columns
        self._width = width
        self._everything = everything
        self._rule = rule
        # Of the titles and of every cell up to now: how wide they are, and how wide at least.
        self._widths = [text_width(column.title) for column in columns]
        self._least = list(self._widths)
        self._blank = [True] * len(columns)
        self._headed: tuple[int, ...] | None = None

    def page(self, rows: Sequence[Sequence[str]]) -> Iterator[str]:
        """The lines of further rows. A column is as wide as its widest cell up to here; the titles come again when other
        columns fit than before."""
        if not rows:
            return
        self._measure(rows)
        shown = self._fitting()
        if shown is None:
            yield from self._blocks(rows)
            return
        self._note_hidden(shown)
        widths = self._distribute(shown)
        if shown != self._headed:
            self._headed = shown
            titles = [pad(self._columns[index].title, widths[index], self._columns[index].figure) for index in shown]
            yield "  ".join(titles).rstrip()
            yield self._rule * (sum(widths[index] for index in shown) + _GAP * (len(shown) - 1))
        if self._width is None or all(widths[index] >= self._widths[index] for index in shown):
            yield from self._whole(rows, shown, widths)
            return
        for row in rows:
            yield from self._folded(row, shown, widths)

    def _whole(self, rows: Sequence[Sequence[str]], shown: tuple[int, ...], widths: Sequence[int]) -> Iterator[str]:
        """One line for each row."""
        layout = [(index, widths[index], self._columns[index].figure) for index in shown]
        template = "  ".join([f"%{'' if right else '-'}{width}s" for _, width, right in layout])
        for row in rows:
            line = template % tuple([row[index] for index in shown])  # a long list consists of such lines
            if not line.isascii():
                line = "  ".join([pad(row[index], width, right) for index, width, right in layout])
            yield line.rstrip()

    def _measure(self, rows: Sequence[Sequence[str]]) -> None:
        for index, cells in enumerate(zip(*rows, strict=True)):
            widest = max(map(len if "".join(cells).isascii() else text_width, cells))
            self._widths[index] = max(self._widths[index], widest)
            if self._blank[index]:
                self._blank[index] = all(cell in _BLANK for cell in cells)
            if self._width is not None and self._columns[index].prose:
                longest = max(map(_longest_word, cells))
                self._least[index] = max(self._least[index], longest, min(_LEAST_PROSE, widest))
            else:
                self._least[index] = self._widths[index]

    def _fitting(self) -> tuple[int, ...] | None:
        """The columns that are shown; None: those that may not be left out do not fit."""
        every = range(len(self._columns))
        if self._width is None or self._fits(every):
            return tuple(every)
        shown = [index for index in every if not self._columns[index].priority]
        if self._everything or not self._fits(shown):
            return None
        optional = [index for index in every if self._columns[index].priority]
        # A column without a value comes behind every other one.
        for index in sorted(optional, key=lambda index: (self._blank[index], self._columns[index].priority)):
            if self._fits([*shown, index]):
                shown.append(index)
        return tuple(sorted(shown))

    def _fits(self, shown: Sequence[int]) -> bool:
        return self._width is None or self._taken(shown) <= self._width

    def _taken(self, shown: Sequence[int]) -> int:
        """The width that these columns need at least."""
        return sum(self._least[index] for index in shown) + _GAP * (len(shown) - 1)

    def _note_hidden(self, shown: tuple[int, ...]) -> None:
        for index, column in enumerate(self._columns):
            if index not in shown and column.title not in self.hidden:
                self.hidden.append(column.title)

    def _distribute(self, shown: tuple[int, ...]) -> list[int]:
        """The width of each column: what is left beside the others goes to the prose, from the left."""
        if self._width is None:
            return self._widths
        widths = list(self._least)
        left = self._width - self._taken(shown)
        for index in shown:
            more = min(left, self._widths[index] - widths[index])
            widths[index] += more
            left -= more
        return widths

    def _folded(self, row: Sequence[str], shown: tuple[int, ...], widths: Sequence[int]) -> Iterator[str]:
        """The lines of a row whose prose is wrapped."""
        cells = [
            list(wrap(row[index], widths[index])) if self._columns[index].prose else [row[index]] for index in shown
        ]
        for line in range(max(map(len, cells))):
            yield "  ".join(
                pad(cell[line] if line < len(cell) else "", widths[index], self._columns[index].figure)
                for index, cell in zip(shown, cells, strict=True)
            ).rstrip()

    def _blocks(self, rows: Sequence[Sequence[str]]) -> Iterator[str]:
        for row in rows:
            if self._headed is not None:
                yield ""
            self._headed = ()
            fields = zip(self._columns, row, strict=True)
            yield from field_lines([(column.title, cell, column.prose) for column, cell in fields], self._width)


def field_lines(fields: Sequence[tuple[str, str, bool]], width: int | None) -> Iterator[str]:
    """The lines of one object: label, value, and whether the value is prose. A value that does not fit beside its label begins
    on the next line."""
    labels = max((text_width(label) for label, _, _ in fields), default=0)
    for label, value, is_prose in fields:
        head = pad(label, labels) + " " * _GAP
        room = None if width is None else width - labels - _GAP
        if room is None or text_width(value) <= room:
            yield (head + value).rstrip()
        elif is_prose and _longest_word(value) <= room:
            for number, line in enumerate(wrap(value, room)):
                yield (head if number == 0 else " " * len(head)) + line
        else:
            assert width is not None
            yield label
            for line in wrap(value, width - _GAP) if is_prose else [value]:
                yield " " * _GAP + line if text_width(line) + _GAP <= width else line


def wrap(text: str, width: int) -> Iterator[str]:
    """The lines of a text, broken between words; a word that is wider than ``width`` is a line of its own."""
    line = ""
    for word in text.split(" "):
        if line and text_width(line) + 1 + text_width(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line


def pad(text: str, width: int, right: bool = False) -> str:
    """``text`` with blanks up to a width; ``right``: in front of it."""
    if text.isascii():
        return text.rjust(width) if right else text.ljust(width)
    blanks = " " * (width - text_width(text))
    return blanks + text if right else text + blanks


def text_width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # imported late: most tables are ASCII

    return cell_len(text)


def _longest_word(text: str) -> int:
    return max(map(text_width, text.split(" ")))


def wrapped(text: str, width: int | None) -> list[str]:
    """The lines of a sentence; without a width it is one line."""
    return [text] if width is None else list(wrap(text, width))
