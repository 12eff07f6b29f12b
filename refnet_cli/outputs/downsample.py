"""Counts inside square cells of a grid, while its rows come in, and pictures whose pixels are such cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from refnet_cli.types import UInt8

MOST_CELLS = 1000
"""Along the longer side of a picture."""


def cell_side(height: int, width: int) -> int:
    """Return the side, in pixels of a grid, of the cells that are the pixels of a picture of it.

    Examples
    --------
    >>> cell_side(1000, 20), cell_side(10, 1001)
    (1, 2)
    """
    return math.ceil(max(height, width) / MOST_CELLS)


class CellCounts:
    """Counts codes inside square cells while the rows of a grid come in.

    Parameters
    ----------
    height, width : int
        Size of the grid in pixels.
    cell : int
        Side of a cell in pixels; the last ones may be cut off by the grid's edges.
    codes : sequence of int
        What to count.
    """

    def __init__(self, height: int, width: int, cell: int, codes: Sequence[int]) -> None:
        self.rows, self.columns = math.ceil(height / cell), math.ceil(width / cell)
        self.next_row, self.cell = 0, cell
        self._height, self._codes = height, codes
        self._starts = np.arange(0, width, cell)
        self._counts = np.zeros((self.columns, len(codes)), np.int64)

    def add(self, codes: UInt8) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Take the next rows and yield each completed row of cells: its number and counts, shape (columns, codes)."""
        taken = 0
        while taken < len(codes):
            end_of_cells = min((self.next_row // self.cell + 1) * self.cell, self._height)
            # No more rows than a byte can count: bytes are added many times faster than anything else.
            part = codes[taken : taken + min(255, end_of_cells - self.next_row)]
            for index, code in enumerate(self._codes):
                in_columns = (part == code).view(np.uint8).sum(axis=0, dtype=np.uint8)
                self._counts[:, index] += np.add.reduceat(in_columns, self._starts, dtype=np.int64)
            taken += len(part)
            self.next_row += len(part)
            if self.next_row == end_of_cells:
                yield (self.next_row - 1) // self.cell, self._counts
                self._counts = np.zeros_like(self._counts)


class ClassPicture:
    """The commonest class of each cell of a picture while the rows of a grid come in.

    Parameters
    ----------
    height, width : int
        Size of the grid in pixels.
    codes : sequence of int
        Of the classes.
    """

    def __init__(self, height: int, width: int, codes: Sequence[int]) -> None:
        self._shown = np.array(sorted({0, *codes}), np.uint8)  # of equally common ones the lowest counts
        self.side = cell_side(height, width)
        """Of a cell, in pixels of the grid."""
        self._cells = CellCounts(height, width, self.side, self._shown.tolist())
        self._pixels = np.zeros(len(self._shown), np.int64)
        self.codes: UInt8 = np.zeros((self._cells.rows, self._cells.columns), np.uint8)
        """Commonest code of each cell, 0 where that is no class, shape (rows, columns) of cells."""

    def add(self, codes: UInt8) -> None:
        """Take the next rows, shape (rows, width)."""
        for row, counts in self._cells.add(codes):
            self.codes[row] = self._shown[counts.argmax(axis=1)]
            self._pixels += counts.sum(axis=0)

    @property
    def pixels(self) -> dict[int, int]:
        """How many pixels of the completed rows of cells have each code, 0 included."""
        return dict(zip(self._shown.tolist(), self._pixels.tolist(), strict=True))
