"""What a terminal shows of what programs write to it."""

from __future__ import annotations

import re
from typing import NamedTuple

TOKENS = re.compile(r"\x1b\[(?P<numbers>[?\d;]*)(?P<command>[A-Za-z])|(?P<one>.)", re.DOTALL)


class Cell(NamedTuple):
    """A character, and the codes of its colours as in ``ESC [ 1;31 m``."""

    character: str
    style: str


BLANK = Cell(" ", "")


class Screen:
    """A terminal of so many columns that grows downwards.

    It knows line ends, carriage returns, colours, moves upwards and erasing to the end of a line, and refuses all else.

    Examples
    --------
    >>> screen = Screen(8)
    >>> screen.write("10 %\\r100 %\\r\\nlonger than it\\n")
    >>> screen.lines
    ['100 %', 'longer t\\\\', 'han it']
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[list[Cell]] = [[]]
        self._broken: set[int] = set()  # rows that go on in the next one
        self._row = self._column = 0
        self._style = ""

    def write(self, text: str) -> None:
        """Show text."""
        for token in TOKENS.finditer(text):
            if token["command"]:
                self._obey(token["command"], token["numbers"])
            elif token["one"] == "\n":  # before which terminals put a carriage return
                self._row, self._column = self._row + 1, 0
            elif token["one"] == "\r":
                self._column = 0
            elif token["one"] >= " ":
                self._put(token["one"])
            else:
                raise ValueError(f"the terminal does not know the character {token['one']!r}")

    @property
    def lines(self) -> list[str]:
        r"""What it shows, without colours; lines that it breaks, as they are too long, have ``\`` at the break."""
        texts = ["".join(cell.character for cell in row) for row in self.rows]
        shown = [f"{text}\\" if row in self._broken else text.rstrip() for row, text in enumerate(texts)]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def _put(self, character: str) -> None:
        if self._column == self.columns:
            self._broken.add(self._row)
            self._row, self._column = self._row + 1, 0
        self.rows += [[] for _ in range(self._row + 1 - len(self.rows))]
        row = self.rows[self._row]
        row += [BLANK] * (self._column + 1 - len(row))
        row[self._column] = Cell(character, self._style)
        self._column += 1

    def _obey(self, command: str, numbers: str) -> None:
        if command == "m":
            self._style = "" if numbers in ("", "0") else f"{self._style};{numbers}".strip(";")
        elif command == "A":
            self._row = max(self._row - int(numbers or 1), 0)
        elif command == "K" and numbers in ("", "0"):
            if self._row < len(self.rows):
                del self.rows[self._row][self._column :]
        elif not (command in "hl" and numbers == "?25"):  # whether the cursor is seen
            raise ValueError(f"the terminal does not know ESC [ {numbers} {command}")
