"""Downsampling of a map row by row: class counts in square cells, and pictures with one pixel per cell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from refnet_cli.types import UInt8

MAX_CELLS = 1000
"""Most cells along the longer side of a picture."""


def cell_side(height: int, width: int) -> int:
    """Return the side, in pixels of a grid, of the cells that become one pixel each of a picture.

    Examples
    --------
    >>> cell_side(1000, 20), cell_side(10, 1001)
    (1, 2)
    """
    return math.ceil(max(height, width) / MAX_CELLS)


class CellCounts:
    """Count codes in square cells, row by row.

    Parameters
    ----------
    height, width : int
        Size of the grid in pixels.
    cell : int
        Side of a cell in pixels; cells at the grid's end may be smaller.
    codes : sequence of int
        The codes to count.
    """

    def __init__(self, height: int, width: int, cell: int, codes: Sequence[int]) -> None:
        self.rows, self.columns = math.ceil(height / cell), math.ceil(width / cell)
        self.next_row, self.cell = 0, cell
        self._height, self._codes = height, codes
        self._starts = np.arange(0, width, cell)
        self._counts = np.zeros((self.columns, len(codes)), np.int64)

    def add(self, codes: UInt8) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Add the next rows, and yield each completed row of cells: its number and counts, shape (columns, codes)."""
        taken = 0
        while taken < len(codes):
            end_of_cells = min((self.next_row // self.cell + 1) * self.cell, self._height)
            # At most 255 rows, so that a byte holds the count: summing bytes is many times faster.
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
    """A picture with the most common class of each cell, built row by row.

    Parameters
    ----------
    height, width : int
        Size of the grid in pixels.
    codes : sequence of int
        Codes of the classes.
    """

    def __init__(self, height: int, width: int, codes: Sequence[int]) -> None:
        self._shown = np.array(sorted({0, *codes}), np.uint8)  # sorted: the lowest code wins a tie
        self.side = cell_side(height, width)
        """Side of a cell in pixels of the grid."""
        self._cells = CellCounts(height, width, self.side, self._shown.tolist())
        self._pixels = np.zeros(len(self._shown), np.int64)
        self.codes: UInt8 = np.zeros((self._cells.rows, self._cells.columns), np.uint8)
        """Most common code of each cell, 0 for no class, shape (rows, columns) of cells."""

    def add(self, codes: UInt8) -> None:
        """Add the next rows, shape (rows, width)."""
        for row, counts in self._cells.add(codes):
            self.codes[row] = self._shown[counts.argmax(axis=1)]
            self._pixels += counts.sum(axis=0)

    @property
    def pixels(self) -> dict[int, int]:
        """Number of pixels with each code, including 0, in the completed rows of cells."""
        return dict(zip(self._shown.tolist(), self._pixels.tolist(), strict=True))
