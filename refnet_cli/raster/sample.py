"""Pixels spread over a file, by which it is judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError
from refnet_cli.raster.fills import Fill, Fills, Surroundings
from refnet_cli.raster.raster import BLOCK, Raster
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

_MARGIN = 8  # pixels around holes that are not judged: the resampling of others may have blended them with the hole
_PIXELS = 300_000  # that are kept
_READ = 4_200_000  # pixels that are read, about
_SIDE = 32  # least height and width of what is read together
_FEW = 1 << 30  # pixels in which something valid is looked for
_ENOUGH = 500  # clear pixels to judge by them alone


class Sample(NamedTuple):
    """Pixels spread over a file."""

    values: Float32
    """Shape (B, n); NaN where there is no measurement."""
    clear: NDArray[np.bool_]
    """Which pixels lie away from all holes, shape (n,)."""
    lowest: Float32
    """Least value of each band among all pixels that were read, shape (B, 1); NaN without any."""
    highest: Float32

    @property
    def judged(self) -> Float32:
        """Values to judge the file by: those of clear pixels where there are enough, shape (B, m)."""
        return self.values[:, self.clear] if np.count_nonzero(self.clear) >= _ENOUGH else self.values


def take_sample(raster: Raster, bands: Sequence[int], pass_over: bool = False) -> Sample:
    """Read blocks spread over a file; more, until something is valid, where all of them are not.

    What cannot be read is an error, or passed over.

    Raises
    ------
    InputError
    """
    windows = list(_spread_windows(raster))
    # An odd step, so that not the same columns are taken in every row.
    step = sum(window.height * window.width for window in windows) // _PIXELS | 1
    taken = []
    for window in windows:
        try:
            values, near = raster.read_near(bands, window, _MARGIN)
        except InputError:
            if not pass_over:
                raise
            continue
        taken.append(_sample_of(values, _clear(near, window, raster.shape), step))
    if not any(np.isfinite(sample.values).any() for sample in taken):
        values = _first_valid(raster, bands, pass_over)
        taken = [_sample_of(values, _known(values), 1)]
    return Sample(
        np.concatenate([sample.values for sample in taken], axis=1),
        np.concatenate([sample.clear for sample in taken]),
        np.fmin.reduce([sample.lowest for sample in taken]),
        np.fmax.reduce([sample.highest for sample in taken]),
    )


def mean_of(values: Float32) -> float:
    """Return the mean of those values that are there; NaN without any."""
    return float(np.nanmean(values, dtype=np.float64)) if np.isfinite(values).any() else float("nan")


def confirm_fills(raster: Raster, bands: Sequence[int], fills: Sequence[Fill], pass_over: bool = False) -> Fills:
    """Look at the surroundings of values that may be fills; `take_sample` tells what is read, and errors."""
    around = Surroundings(fills)
    for window in _spread_windows(raster):
        try:
            for values in raster.read_pieces(bands, window):
                around.add(values)
        except InputError:
            if not pass_over:
                raise
    return around.fills()


def _sample_of(values: Float32, clear: NDArray[np.bool_], step: int) -> Sample:
    flat = values.reshape(len(values), -1)
    lowest, highest = np.fmin.reduce(flat, axis=1, keepdims=True), np.fmax.reduce(flat, axis=1, keepdims=True)
    return Sample(flat[:, ::step].copy(), clear.ravel()[::step].copy(), lowest, highest)


def _clear(near: NDArray[np.bool_], window: Window, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell which pixels of a window are not near holes; beyond its edges inside the file, nobody knows."""
    clear = ~near
    top, left = (_MARGIN if start else 0 for start in (window.row, window.column))
    bottom = window.height - (_MARGIN if window.row + window.height < shape[0] else 0)
    right = window.width - (_MARGIN if window.column + window.width < shape[1] else 0)
    clear[:top], clear[max(bottom, 0) :], clear[:, :left], clear[:, max(right, 0) :] = False, False, False, False
    return clear


def _known(values: Float32) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values).all(axis=0))


def _first_valid(raster: Raster, bands: Sequence[int], pass_over: bool) -> Float32:
    height, width = raster.shape
    values = np.full((len(bands), 1, 1), np.nan, np.float32)
    for row in range(0, min(height, _FEW // width + 1), BLOCK):
        for column in range(0, width, 8 * BLOCK):
            try:
                window = Window(row, column, BLOCK, 8 * BLOCK).clip(height, width)
                values, _ = raster.read_measured(bands, window)
            except InputError:
                if not pass_over:
                    raise
            if np.isfinite(values).any():
                return values
    return values


def _spread_windows(raster: Raster) -> Iterator[Window]:
    """Yield whole blocks spread over a file, those at its edges among them, where fills lie most often."""
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
            yield from raster.cut(Window(row * rows, column * columns, rows, columns).clip(height, width))


def _spread(count: int, many: int) -> list[int]:
    """Choose some of the numbers below ``count``: the first and the last too, where they are not all."""
    if many < 3:
        return sorted({int((number + 0.5) * count / many) for number in range(many)})
    return sorted({round(number * (count - 1) / (many - 1)) for number in range(many)})
