"""Undeclared fill values: one number that is repeated where nothing was measured.

A fill value differs from measurements in three ways. Its pixels have the same number in all bands. In some band, hardly
any other pixel has a similar value. And its pixels are adjacent. Values that are impossible in any unit only need to be
repeated. If a file was resampled before its fill value was declared, the surrounding pixels are blended with it. They
are detected by comparing them with pixels further away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.types import Bool, Float32

Level = Callable[[NDArray[Any]], NDArray[Any]]
"""From values as read to a scale on which differences are meaningful; NaN for values impossible in any unit."""
IsGround = Callable[[float, NDArray[Any]], bool]
"""From a value's level and the other levels, shape (B, n), to whether the value may be ground clipped to that level."""
COMPLETE = "REFNET_NODATA", "complete"
"""Tag, and its text, of files that declare every pixel without data as nodata, as those that refnet fetched."""
MAX_BUFFER = 8  # pixels, for a band of 60 m that was interpolated to 10 m
_REFERENCE = 12  # distance in pixels from a fill value at which nothing is blended with it
_MIN_COUNT = 20  # of equal values
_MIN_SHARE = 2e-4
_MIN_COUNT_ISOLATED = 100  # of equal values that might be ground
_MIN_COUNT_LOWEST = 3  # of equal lowest values
_CERTAIN_GAP = 1.0  # in level, between a fill value far from any ground and measurements
_NEAR = 0.05  # relative to the distance between a fill value and the median; also the tolerated share of near values
_MAX_FILLS = 16
_MAX_EDGES = 20_000  # edge pixels of fill values that are compared per window
_BLENDED = 0.7  # share of pixels closer to the fill value than their reference; 0.5 without blending
_MIN_FRACTION = 0.05  # of the way to the fill value, for at least half of the blended pixels
_MIN_PIXELS = 50  # to decide on blending


class Fill(NamedTuple):
    """A number that marks missing measurements."""

    value: float
    """As read, with declared scale and offset applied."""
    all_bands: bool
    """Whether all bands of a pixel must have it; otherwise one is enough."""


class Fills(NamedTuple):
    """The fill values of a file."""

    values: tuple[Fill, ...] = ()
    buffer: int = 0
    """Width in pixels of the blended zone around them."""

    def mask(self, values: Float32) -> Bool:
        """Return which pixels of values as read, shape (B, H, W), are fill values or blended with them; (H, W)."""
        return dilate(fill_mask(values, self.values), self.buffer)


def fill_mask(values: Float32, fills: Sequence[Fill]) -> Bool:
    """Return which pixels of values as read, shape (B, ...), are fill values; shape (...)."""
    mask = np.zeros(values.shape[1:], bool)
    for fill in fills:
        same = values == np.float32(fill.value)
        mask |= same.all(axis=0) if fill.all_bands else same.any(axis=0)
    return mask


def dilate(mask: Bool, pixels: int) -> Bool:
    """Dilate a mask, shape (H, W), by a number of rows and columns."""
    if not pixels or not mask.any():
        return mask
    from scipy.ndimage import maximum_filter1d  # slow to import, and seldom needed

    dilated = mask.view(np.uint8)
    for axis in (0, 1):
        dilated = maximum_filter1d(dilated, 2 * pixels + 1, axis=axis, mode="constant")
    return dilated.view(bool)


def without_repeated_extremes(values: NDArray[Any]) -> NDArray[Any]:
    """Remove NaN, and the minimum and the maximum of values, shape (n,), while they are repeated."""
    values = values[np.isfinite(values)]
    for extreme in (np.min, np.max):
        for _ in range(_MAX_FILLS):
            same = values == extreme(values) if values.size else np.zeros(0, bool)
            count = np.count_nonzero(same)
            if count < _min_count(values.size) or count == values.size:
                break
            values = values[~same]
    return values


def without_repeated_lowest(values: NDArray[Any], min_gap: float) -> NDArray[Any]:
    """Remove NaN, and the minimum of values, shape (n,), while it is repeated and isolated."""
    values = values[np.isfinite(values)]
    for _ in range(_MAX_FILLS):
        if not values.size:
            break
        same = values == values.min()
        count = int(np.count_nonzero(same))
        if count < _MIN_COUNT_LOWEST or not _is_isolated(values[~same], float(values.min()), count, min_gap):
            break
        values = values[~same]
    return values


def impossible_fills(values: Float32, level: Level, low: float, high: float) -> list[float]:
    """Return repeated values that are impossible in any unit, or isolated and far beyond the level of any ground.

    They must be repeated in all bands of pixels or in one band.

    Parameters
    ----------
    values : float32 array, shape (B, n)
        As read.
    level : callable
    low, high : float
        Range of the level of ground.
    """
    known, equal = _equal(values)
    found = _repeated(values[0, equal], _min_count(int(np.count_nonzero(known))))
    for band in values:
        found += _repeated(band, _min_count(int(np.count_nonzero(np.isfinite(band)))))
    return [fill for fill in dict.fromkeys(found) if fill and _is_certain(values, fill, level, low, high)]


def _is_certain(values: Float32, fill: float, level: Level, low: float, high: float) -> bool:
    at = _level_of(fill, level)
    if low <= at <= high:
        return False
    same = values == np.float32(fill)
    others = level(values[np.isfinite(values) & ~same])
    # Nothing is near NaN, the level of an impossible value.
    return _few_near(others, at, int(np.count_nonzero(same)), _CERTAIN_GAP)


def shared_fills(values: Float32, level: Level, min_gap: float, is_ground: IsGround) -> list[float]:
    """Return repeated values that pixels have in all bands and that are isolated in at least one band.

    Parameters
    ----------
    values : float32 array, shape (B, n)
        As read.
    level : callable
    min_gap : float
        Values with a smaller difference in level always count as near.
    is_ground : callable
    """
    known, equal = _equal(values)
    return _isolated_fills(values[:, known], equal[known], _MIN_COUNT_ISOLATED, level, min_gap, is_ground)


def spike_fills(values: Float32, level: Level, min_gap: float, is_ground: IsGround) -> list[float]:
    """Return often repeated, isolated values of a single band, shape (n,); see `shared_fills`."""
    known = values[None, np.isfinite(values)]
    least = max(_MIN_COUNT_ISOLATED, known.size // 100)
    return _isolated_fills(known, np.ones(known.shape[1], bool), least, level, min_gap, is_ground)


def _isolated_fills(
    values: Float32, equal: Bool, least: int, level: Level, min_gap: float, is_ground: IsGround
) -> list[float]:
    fills = _repeated(values[0, equal], max(least, _min_count(equal.size)))
    others = level(values[:, ~(equal & np.isin(values[0], np.array(fills, np.float32)))])
    if not fills or not np.isfinite(others).any(axis=1).all():
        return []
    kept = []
    for fill in fills:
        at, count = _level_of(fill, level), int(np.count_nonzero(values[0, equal] == np.float32(fill)))
        if not is_ground(at, others) and any(_is_isolated(band, at, count, min_gap) for band in others):
            kept.append(fill)
    return kept


def _equal(values: Float32) -> tuple[Bool, Bool]:
    """Return which pixels of values, shape (B, n), are valid in all bands, and which are equal in all bands."""
    known = np.isfinite(values).all(axis=0)
    return np.asarray(known), np.asarray(known & (values == values[:1]).all(axis=0))


def contains_fill(values: Float32, fill: float) -> bool:
    """Return whether a band, shape (n,), contains a value more often than by chance."""
    return int(np.sum(values == np.float32(fill))) >= _min_count(int(np.count_nonzero(np.isfinite(values))))


def _min_count(size: int) -> int:
    return max(_MIN_COUNT, math.ceil(_MIN_SHARE * size))


def _repeated(values: Float32, least: int) -> list[float]:
    """Return the most common values with at least this count, without NaN.

    Values are sorted to count them only if they are no integers of 16 bits, and if values that share their low 16 bits
    are common enough.
    """
    values = values[np.isfinite(values)]
    with np.errstate(invalid="ignore"):  # of values out of range
        numbers = values.astype(np.uint16)
    if np.array_equal(numbers, values):
        all_counts = np.bincount(numbers)
        found = np.flatnonzero(all_counts)
        counts = all_counts[found]
    elif np.bincount(values.view(np.uint32).astype(np.uint16)).max() < least:
        return []
    else:
        found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts)[:_MAX_FILLS]
    return [float(found[index]) for index in order if counts[index] >= least]


def _level_of(fill: float, level: Level) -> float:
    return float(level(np.array([fill], np.float32))[0])


def _is_isolated(others: NDArray[Any], at: float, count: int, min_gap: float) -> bool:
    others = others[np.isfinite(others)]
    if not others.size:
        return False
    return _few_near(others, at, count, max(_NEAR * abs(float(np.median(others)) - at), min_gap))


def _few_near(others: NDArray[Any], at: float, count: int, gap: float) -> bool:
    return int(np.count_nonzero(np.abs(others - at) <= gap)) <= _NEAR * count


class FillNeighbourhood:
    """Statistics of pixels in and around fill values, accumulated over windows of a file.

    Parameters
    ----------
    fills : sequence of Fill
    """

    def __init__(self, fills: Sequence[Fill]) -> None:
        self._fills = fills
        self._touching = np.zeros((len(fills), 2), np.int64)  # per fill value: adjacent pixels, all pixels
        # Shape (3, bands, distances): pixels closer to the fill value than their reference, clearly closer ones, all.
        self._sides: Any = 0

    def add(self, values: Float32) -> None:
        """Add a window of values as read, shape (B, H, W)."""
        for number, fill in enumerate(self._fills):
            mask = fill_mask(values, [fill])
            near = np.zeros_like(mask)
            near[1:] |= mask[:-1]
            near[:-1] |= mask[1:]
            near[:, 1:] |= mask[:, :-1]
            near[:, :-1] |= mask[:, 1:]
            self._touching[number] += np.count_nonzero(mask & near), np.count_nonzero(mask)
        is_fill = fill_mask(values, self._fills)
        numbers = np.array([fill.value for fill in self._fills], np.float32)
        for turns in range(4):
            turned, turned_fill = np.rot90(values, turns, (1, 2)), np.rot90(is_fill, turns)
            self._sides = self._sides + _compare_sides(turned, turned_fill, numbers)

    def fills(self) -> Fills:
        """Return the fill values whose pixels are adjacent or that are impossible in any unit, and the buffer."""
        kept = tuple(
            fill
            for fill, (touching, count) in zip(self._fills, self._touching, strict=True)
            if not fill.all_bands or 2 * touching > count
        )
        return Fills(kept, self._blended_width() if kept else 0)

    def _blended_width(self) -> int:
        toward, clearly, seen = self._sides
        blended = ((toward > _BLENDED * seen) & (2 * clearly > seen) & (seen >= _MIN_PIXELS)).any(axis=0)
        rings = int(np.argmin(np.append(blended, False)))
        return min(rings + 1, MAX_BUFFER) if rings else 0  # wide kernels blend one pixel more than is detectable


def _compare_sides(values: Float32, is_fill: Bool, numbers: Float32) -> NDArray[np.int64]:
    """Compare pixels right of fill values with pixels `_REFERENCE` columns away; see `FillNeighbourhood`."""
    counts = np.zeros((3, len(values), MAX_BUFFER), np.int64)
    rows, columns = np.nonzero(is_fill[:, : -_REFERENCE - 1] & ~is_fill[:, 1:-_REFERENCE])
    rows, columns = rows[:_MAX_EDGES, None], columns[:_MAX_EDGES, None]
    if not rows.size:
        return counts
    positions = columns + np.arange(1, _REFERENCE + 1)
    free = ~is_fill[rows, positions].any(axis=1)
    rows, columns, positions = rows[free], columns[free], positions[free]
    fill, line = values[:, rows[:, 0], columns[:, 0]], values[:, rows, positions]
    far = line[:, :, -1:]
    fill[~np.isin(fill, numbers)] = np.nan  # bands with measurements at these pixels
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fraction = (line[:, :, :MAX_BUFFER] - far) / (fill[:, :, None] - far)  # NaN where a value is missing
    for count, some in zip(counts, (fraction > 0, fraction > _MIN_FRACTION, np.abs(fraction) > 0), strict=True):
        count[:] = some.sum(axis=1)
    return counts
