"""From overlapping tiles of probabilities to finished rows of an area: stitched, optionally smoothed, cropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from refnet_cli.tiles.smooth import Smoother
from refnet_cli.tiles.stitch import Stitcher
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, Float32, UInt8, UInt16

Usable = Callable[[UInt8 | UInt16], Bool]
"""Return the mask of usable pixels, given the sensors that saw each pixel."""


class RowAssembler:
    """Turn tiles into the rows of an area, and return each row as soon as no later tile can change it.

    Parameters
    ----------
    tiling : Tiling
    classes : int
        Number of probability layers K.
    area : Window
        The area to return, inside the tiling's grid.
    radius : int
        Smoothing radius in pixels; 0 turns smoothing off. A margin of this width around the area is stitched too, so
        that the area's border equals the same pixels of a larger area.
    usable : callable
        See `Usable`.
    """

    def __init__(self, tiling: Tiling, classes: int, area: Window, radius: int, usable: Usable) -> None:
        row, column = area.row - radius, area.column - radius
        self.stitched = Window(row, column, area.height + 2 * radius, area.width + 2 * radius).within(tiling.whole)
        """The window that tiles have to cover."""
        self._area, self._usable = area, usable
        self._stitcher = Stitcher(tiling, classes, self.stitched)
        around = self.stitched
        bottom = around.row + around.height
        self._smoother = Smoother(radius, classes, around.width, bottom, around.row, area.row) if radius else None
        self._seen: UInt8 | UInt16 = np.empty((0, area.width), np.uint8)
        self._row = area.row

    def push(
        self,
        windows: Sequence[Window],
        probabilities: Float32,
        seen: UInt8 | UInt16 | None,
        valid: Sequence[Bool | None] = (),
    ) -> Iterator[tuple[int, Float32, UInt8 | UInt16]]:
        """Add tiles, and yield the rows that they complete.

        Parameters
        ----------
        windows : sequence of Window
            The tiles' windows.
        probabilities : float32 array, shape (N, K, tile, tile)
        seen : uint8 array, shape (rows, width), optional
            Given with the last tiles of a row of tiles: the sensors that saw each pixel of the rows of `stitched` that
            no later tile touches.
        valid : sequence of bool array or None, optional
            The pixels in which each tile counts; see `Stitcher.add`.

        Yields
        ------
        row : int
            First row, on the tiling's grid.
        probabilities : float32 array, shape (K, rows, width)
        seen : uint8 array, shape (rows, width)
            The area's columns of ``seen``.
        """
        for window, tile, counts in zip(windows, probabilities, valid or [None] * len(windows), strict=True):
            self._stitcher.add(window, tile, counts)
        if seen is None:
            return
        row, finished = self._stitcher.finish_rows(self._stitcher.top + len(seen))
        if self._smoother is None:
            yield row, finished, seen
            return
        left = self._area.column - self.stitched.column
        columns = slice(left, left + self._area.width)
        end = self._area.row + self._area.height
        above = max(self._area.row - row, 0)
        self._seen = np.concatenate([self._seen, seen[above : max(end - row, 0), columns]])
        for smoothed_row, smoothed in self._smoother.push(row, finished, self._usable(seen)):
            low, high = max(smoothed_row, self._row), min(smoothed_row + smoothed.shape[1], end)
            if low < high:
                part = smoothed[:, low - smoothed_row : high - smoothed_row, columns]
                yield low, part, self._seen[: high - low]
                self._seen, self._row = self._seen[high - low :], high
