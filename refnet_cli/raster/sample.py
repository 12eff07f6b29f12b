"""Samples of pixels spread over a file, for the detection of scale, offset, unit and fill values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError
from refnet_cli.raster.fills import Fill, FillNeighbourhood, Fills
from refnet_cli.raster.raster import BLOCK, Raster
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

_MARGIN = 8  # pixels around nodata that are ignored: earlier resampling may have blended them with it
_PIXELS = 300_000  # that are kept
_READ = 4_200_000  # pixels that are read, approximately
_SIDE = 32  # minimum height and width of a window
_SEARCHED = 1 << 30  # pixels that are searched for a valid one
_MIN_INTERIOR = 500  # interior pixels, to ignore the others


class Sample(NamedTuple):
    """A sample of pixels spread over a file."""

    values: Float32
    """Shape (B, n); NaN where there is no measurement."""
    interior: NDArray[np.bool_]
    """Which pixels are away from nodata, shape (n,)."""
    lowest: Float32
    """Minimum of each band over all pixels read, shape (B, 1); NaN without any."""
    highest: Float32

    @property
    def interior_values(self) -> Float32:
        """Values of the interior pixels if there are enough of them, else of all pixels, shape (B, m)."""
        return self.values[:, self.interior] if np.count_nonzero(self.interior) >= _MIN_INTERIOR else self.values


def take_sample(raster: Raster, bands: Sequence[int], skip_unreadable: bool = False) -> Sample:
    """Read blocks spread over a file. If none of them is valid, read more until a pixel is valid.

    Unreadable blocks raise an error or are skipped.

    Raises
    ------
    InputError
    """
    windows = list(_spread_windows(raster))
    # With an odd step, the sampled columns differ from row to row.
    step = sum(window.height * window.width for window in windows) // _PIXELS | 1
    taken = []
    for window in windows:
        try:
            values, near = raster.read_near_nodata(bands, window, _MARGIN)
        except InputError:
            if not skip_unreadable:
                raise
            continue
        taken.append(_sample_of(values, _interior(near, window, raster.shape), step))
    if not any(np.isfinite(sample.values).any() for sample in taken):
        values = _first_valid(raster, bands, skip_unreadable)
        taken = [_sample_of(values, _known(values), 1)]
    return Sample(
        np.concatenate([sample.values for sample in taken], axis=1),
        np.concatenate([sample.interior for sample in taken]),
        np.fmin.reduce([sample.lowest for sample in taken]),
        np.fmax.reduce([sample.highest for sample in taken]),
    )


def mean_or_nan(values: Float32) -> float:
    """Return the mean of the valid values; NaN if there are none."""
    return float(np.nanmean(values, dtype=np.float64)) if np.isfinite(values).any() else float("nan")


def confirm_fills(raster: Raster, bands: Sequence[int], fills: Sequence[Fill], skip_unreadable: bool = False) -> Fills:
    """Keep the candidates whose surroundings confirm that they are fill values; for errors, see `take_sample`."""
    around = FillNeighbourhood(fills)
    for window in _spread_windows(raster):
        try:
            for values in raster.read_pieces(bands, window):
                around.add(values)
        except InputError:
            if not skip_unreadable:
                raise
    return around.fills()


def _sample_of(values: Float32, interior: NDArray[np.bool_], step: int) -> Sample:
    flat = values.reshape(len(values), -1)
    lowest, highest = np.fmin.reduce(flat, axis=1, keepdims=True), np.fmax.reduce(flat, axis=1, keepdims=True)
    return Sample(flat[:, ::step].copy(), interior.ravel()[::step].copy(), lowest, highest)


def _interior(near: NDArray[np.bool_], window: Window, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels of a window are away from nodata. Near edges inside the file, this is unknown: False."""
    interior = ~near
    top, left = (_MARGIN if start else 0 for start in (window.row, window.column))
    bottom = window.height - (_MARGIN if window.row + window.height < shape[0] else 0)
    right = window.width - (_MARGIN if window.column + window.width < shape[1] else 0)
    for edge in (np.s_[:top], np.s_[max(bottom, 0) :], np.s_[:, :left], np.s_[:, max(right, 0) :]):
        interior[edge] = False
    return interior


def _known(values: Float32) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values).all(axis=0))


def _first_valid(raster: Raster, bands: Sequence[int], skip_unreadable: bool) -> Float32:
    height, width = raster.shape
    values = np.full((len(bands), 1, 1), np.nan, np.float32)
    for row in range(0, min(height, _SEARCHED // width + 1), BLOCK):
        for column in range(0, width, 8 * BLOCK):
            try:
                window = Window(row, column, BLOCK, 8 * BLOCK).clip(height, width)
                values, _ = raster.read_masked(bands, window)
            except InputError:
                if not skip_unreadable:
                    raise
            if np.isfinite(values).any():
                return values
    return values


def _spread_windows(raster: Raster) -> Iterator[Window]:
    """Yield blocks spread over a file, including its edges, where fill values are most frequent."""
    height, width = raster.shape
    rows, columns = raster.dataset.block_shapes[0]
    if height * width <= 1 << 20:
        rows, columns = height, width
    rows, columns = (-(-max(side, _SIDE) // side) * side for side in (rows, columns))
    down, across = -(-height // rows), -(-width // columns)
    budget = _READ // (rows * columns)
    many = int(np.clip(budget, 4, 64)) if across == 1 else int(np.clip(budget**0.5, 2, 6))
    for row in _spread(down, many):
        for column in _spread(across, many):
            yield from raster.split(Window(row * rows, column * columns, rows, columns).clip(height, width))


def _spread(count: int, many: int) -> list[int]:
    """Return up to ``many`` of the numbers below ``count``, spread evenly, including the first and the last."""
    if many < 3:
        return sorted({int((number + 0.5) * count / many) for number in range(many)})
    return sorted({round(number * (count - 1) / (many - 1)) for number in range(many)})
