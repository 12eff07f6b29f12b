"""Stitch overlapping tile predictions into rows."""

from __future__ import annotations

import numpy as np

from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, Float32


class Stitcher:
    """Blend overlapping tiles of probabilities, and return rows as soon as no later tile touches them.

    Holds the area's full width by one tile's height. A pixel's probabilities are the same to the last bit for any
    area, provided that all tiles that touch the pixel are added.

    Parameters
    ----------
    tiling : Tiling
        The tiles' layout. Add tiles in the order of ``tiling.rows()``.
    classes : int
        Number of probability layers K.
    area : Window, optional
        The area to stitch, by default the full grid. Pixels outside are dropped.
    """

    def __init__(self, tiling: Tiling, classes: int, area: Window | None = None) -> None:
        self._tiling = tiling
        self._area = area or tiling.whole
        self.top = self._area.row
        """First unfinished row."""
        self._sum = np.zeros((classes, tiling.tile, self._area.width), np.float32)
        self._weight = np.zeros((tiling.tile, self._area.width), np.float32)

    def add(self, window: Window, probabilities: Float32, valid: Bool | None = None) -> None:
        """Blend in one tile.

        Parameters
        ----------
        window : Window
            The tile's window; pixels outside the area are dropped.
        probabilities : float32 array, shape (K, tile, tile)
        valid : bool array, shape (tile, tile), optional
            The pixels in which the tile counts, by default all. A pixel's probabilities are the mean over the tiles
            that count: if there is one for each date, the mean over dates.
        """
        tiling, area = self._tiling, self._area
        bottom = area.row + area.height
        inside = window.within(area._replace(row=self.top, height=bottom - self.top))
        rows = slice(inside.row - window.row, inside.row - window.row + inside.height)
        columns = slice(inside.column - window.column, inside.column - window.column + inside.width)
        weight = tiling.blend[rows, None] * tiling.blend[None, columns]
        if valid is not None:
            weight = weight * valid[rows, columns]
        target = np.s_[inside.row - self.top : inside.row - self.top + inside.height,
                       inside.column - area.column : inside.column - area.column + inside.width]
        weighted = np.empty_like(weight)
        for total, layer in zip(self._sum, probabilities, strict=True):  # one layer at a time fits the CPU cache
            total[target] += np.multiply(layer[rows, columns], weight, out=weighted)
        self._weight[target] += weight

    def finish_rows(self, next_row: int) -> tuple[int, Float32]:
        """Remove and return the finished rows: those above ``next_row``.

        Parameters
        ----------
        next_row : int
            First row that a later tile may touch: the start of the next row of tiles, or after the last tiles the
            area's end (or more).

        Returns
        -------
        row : int
            Number of the first finished row.
        probabilities : float32 array, shape (K, rows, width)
            Blended probabilities; zero where no tile was added.
        """
        top = self.top
        count = max(min(next_row, self._area.row + self._area.height) - top, 0)
        finished = self._sum[:, :count]
        # Avoids 0 / 0 where no tile was added.
        finished /= np.maximum(self._weight[:count], np.finfo(np.float32).tiny)
        self._sum, self._weight = _moved_up(self._sum, count), _moved_up(self._weight, count)
        self.top += count
        return top, finished


def _moved_up(buffer: Float32, count: int) -> Float32:
    """Return a copy of the buffer shifted up by ``count`` rows and padded with zeros."""
    moved = np.zeros_like(buffer)
    moved[..., : buffer.shape[-2] - count, :] = buffer[..., count:, :]
    return moved
