"""Rectangles of pixels."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of pixels: its first row and column, its height and width."""

    row: int
    column: int
    height: int
    width: int

    def clip(self, height: int, width: int) -> Window:
        """Return the part of the window that lies on a grid of ``height`` x ``width`` pixels.

        Examples
        --------
        >>> Window(-4, 6, 8, 8).clip(10, 10)
        Window(row=0, column=6, height=4, width=4)
        """
        return self.within(Window(0, 0, height, width))

    def within(self, other: Window) -> Window:
        """Return the part of the window that lies in another one; it has no height or no width where they are apart.

        Examples
        --------
        >>> Window(0, 6, 8, 8).within(Window(5, 0, 100, 10))
        Window(row=5, column=6, height=3, width=4)
        """
        top, left = max(self.row, other.row), max(self.column, other.column)
        bottom = min(self.row + self.height, other.row + other.height)
        right = min(self.column + self.width, other.column + other.width)
        return Window(top, left, max(bottom - top, 0), max(right - left, 0))
