"""Pixel windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of pixels: first row and column, height and width."""

    row: int
    column: int
    height: int
    width: int

    def __str__(self) -> str:
        """Describe it for people.

        Examples
        --------
        >>> str(Window(0, 512, 256, 256))
        'rows 0 to 255, columns 512 to 767'
        """
        last_row, last_column = self.row + self.height - 1, self.column + self.width - 1
        return f"rows {self.row} to {last_row}, columns {self.column} to {last_column}"

    def clip(self, height: int, width: int) -> Window:
        """Return the window clipped to a grid of ``height`` x ``width`` pixels.

        Examples
        --------
        >>> Window(-4, 6, 8, 8).clip(10, 10)
        Window(row=0, column=6, height=4, width=4)
        """
        return self.within(Window(0, 0, height, width))

    def within(self, other: Window) -> Window:
        """Return the intersection with another window; its height or width is 0 if the windows are disjoint.

        Examples
        --------
        >>> Window(0, 6, 8, 8).within(Window(5, 0, 100, 10))
        Window(row=5, column=6, height=3, width=4)
        """
        top, left = max(self.row, other.row), max(self.column, other.column)
        bottom = min(self.row + self.height, other.row + other.height)
        right = min(self.column + self.width, other.column + other.width)
        return Window(top, left, max(bottom - top, 0), max(right - left, 0))

    def pieces(self, side: int) -> Iterator[Window]:
        """Yield the window split into pieces of at most ``side`` x ``side`` pixels, row by row.

        Examples
        --------
        >>> [(piece.column, piece.width) for piece in Window(5, 6, 3, 10).pieces(8)]
        [(6, 8), (14, 2)]
        """
        for row in range(self.row, self.row + self.height, side):
            for column in range(self.column, self.column + self.width, side):
                yield Window(row, column, side, side).within(self)

    def check_inside(self, height: int, width: int) -> None:
        """Raise ValueError if the window is empty or exceeds a grid of ``height`` x ``width`` pixels."""
        if self != self.clip(height, width) or self.height < 1 or self.width < 1:
            raise ValueError(f"{self} is empty or exceeds the grid of {height} x {width} pixels.")

    def slices_in(self, around: Window) -> tuple[slice, slice]:
        """Return the slices of this window in an array that holds an enclosing window's pixels.

        Examples
        --------
        >>> Window(5, 6, 3, 4).slices_in(Window(5, 0, 100, 10))
        (slice(0, 3, None), slice(6, 10, None))
        """
        top, left = self.row - around.row, self.column - around.column
        return slice(top, top + self.height), slice(left, left + self.width)
