"""Overlapping predictions of tiles become finished rows."""

from __future__ import annotations

import numpy as np

from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32


class Stitcher:
    """Blends overlapping tiles of probabilities and hands out rows as soon as no later tile touches them.

    Holds one tile's height of the area's full width. A pixel's probabilities are the same to the last bit for any area,
    if all tiles that touch it are added.

    Parameters
    ----------
    tiling : Tiling
        The tiles to come, row by row as ``tiling.rows()`` gives them.
    classes : int
        Number of probability layers K.
    area : Window, optional
        What to finish, by default the whole grid; what tiles say of the rest is dropped.
    """

    def __init__(self, tiling: Tiling, classes: int, area: Window | None = None) -> None:
        self._tiling = tiling
        self._area = area or tiling.whole
        self.top = self._area.row
        """First row that is not finished."""
        self._sum = np.zeros((classes, tiling.tile, self._area.width), np.float32)
        self._weight = np.zeros((tiling.tile, self._area.width), np.float32)

    def add(self, window: Window, probabilities: Float32) -> None:
        """Blend in one tile.

        Parameters
        ----------
        window : Window
            Where the tile lies; the part beyond the area is dropped.
        probabilities : float32 array, shape (K, tile, tile)
        """
        tiling, area = self._tiling, self._area
        bottom = area.row + area.height
        inside = window.within(area._replace(row=self.top, height=bottom - self.top))
        rows = slice(inside.row - window.row, inside.row - window.row + inside.height)
        columns = slice(inside.column - window.column, inside.column - window.column + inside.width)
        weight = tiling.blend[rows, None] * tiling.blend[None, columns]
        target = np.s_[inside.row - self.top : inside.row - self.top + inside.height,
                       inside.column - area.column : inside.column - area.column + inside.width]
        weighted = np.empty_like(weight)
        for total, layer in zip(self._sum, probabilities, strict=True):  # one by one, within the processor's cache
            total[target] += np.multiply(layer[rows, columns], weight, out=weighted)
        self._weight[target] += weight

    def finish_rows(self, next_row: int) -> tuple[int, Float32]:
        """Take out the rows above ``next_row``, the first row that tiles still to come may touch.

        Parameters
        ----------
        next_row : int
            Start of the next row of tiles; the area's end (or more) after the last.

        Returns
        -------
        row : int
            First of the finished rows.
        probabilities : float32 array, shape (K, rows, width)
            Blended probabilities; zero where no tile was added.
        """
        top = self.top
        count = max(min(next_row, self._area.row + self._area.height) - top, 0)
        finished = self._sum[:, :count]
        # Where no tile was added, zero is divided by something.
        finished /= np.maximum(self._weight[:count], np.finfo(np.float32).tiny)
        self._sum, self._weight = _moved_up(self._sum, count), _moved_up(self._weight, count)
        self.top += count
        return top, finished


def _moved_up(buffer: Float32, count: int) -> Float32:
    """Make a buffer without the first rows of another, and with zeros at its end."""
    moved = np.zeros_like(buffer)
    moved[..., : buffer.shape[-2] - count, :] = buffer[..., count:, :]
    return moved
