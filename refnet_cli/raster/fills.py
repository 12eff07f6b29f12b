"""Fills that no file declares: one number, repeated where nothing was measured.

A fill differs from measurements in three ways. Its pixels hold exactly one number, in all bands. Its number lies apart
from what is measured: hardly any other pixel is near it in some band. And its pixels touch each other. Numbers that no
unit allows need none of this but to be repeated. Where a file was resampled while the fill counted as a number, the
pixels around it are blended with it; these are found by comparing them with pixels further away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from refnet_cli.types import Bool, Float32

Level = Callable[[NDArray[Any]], NDArray[Any]]
"""From values as read to a scale on which distances mean something; NaN where no unit allows a value."""
Ground = Callable[[float, NDArray[Any]], bool]
"""From a fill's level and the others', shape (B, n), to whether ground may be clipped to that level."""
LONGEST_RIM = 8  # pixels, as of a band of 60 m that was interpolated to 10 m
_REFERENCE = 12  # pixels from a fill at which nothing is blended with it
_FEWEST = 20  # equal values that are no accident
_LEAST_SHARE = 2e-4
_FEWEST_APART = 100  # equal values that ground may have
_FEWEST_LOWEST = 3  # equal values that decide nothing by being the least
_CERTAIN_GAP = 1.0  # level between a fill far from all ground and measurements
_NEAR = 0.05  # of the distance from a fill to the median: what lies nearer is near; and the share that may
_MOST_FILLS = 16
_MOST_EDGES = 20_000  # of a fill in a window that are looked at
_BLENDED = 0.7  # share of pixels that lie on the fill's side of pixels further away; 0.5 where nothing is blended
_PART = 0.05  # of the way to the fill that half of them have gone at least
_ENOUGH = 50  # pixels to tell that


class Fill(NamedTuple):
    """A number that stands for no measurement."""

    value: float
    """As read, with a declared scale and offset applied."""
    together: bool
    """Whether a pixel is fill only where all bands hold it; otherwise one band is enough."""


class Fills(NamedTuple):
    """The fills of a file."""

    values: tuple[Fill, ...] = ()
    rim: int = 0
    """Pixels around them that are blended with them."""

    def mask(self, values: Float32) -> Bool:
        """Tell which pixels of values as read, shape (B, H, W), are fill or blended with it; shape (H, W)."""
        return grow(fill_mask(values, self.values), self.rim)


def fill_mask(values: Float32, fills: Sequence[Fill]) -> Bool:
    """Tell which pixels of values as read, shape (B, ...), are fill; shape (...)."""
    mask = np.zeros(values.shape[1:], bool)
    for fill in fills:
        same = values == np.float32(fill.value)
        mask |= same.all(axis=0) if fill.together else same.any(axis=0)
    return mask


def grow(mask: Bool, pixels: int) -> Bool:
    """Add the pixels that lie at most so many rows and columns from a mask, shape (H, W)."""
    if not pixels or not mask.any():
        return mask
    grown = mask.view(np.uint8)
    for axis in (0, 1):
        grown = maximum_filter1d(grown, 2 * pixels + 1, axis=axis, mode="constant")
    return grown.view(bool)


def without_repeated_extremes(values: NDArray[Any]) -> NDArray[Any]:
    """Leave out the least and the greatest of values, shape (n,), where it is repeated; NaN too."""
    values = values[np.isfinite(values)]
    for extreme in (np.min, np.max):
        for _ in range(_MOST_FILLS):
            same = values == extreme(values) if values.size else np.zeros(0, bool)
            count = np.count_nonzero(same)
            if count < _least(values.size) or count == values.size:
                break
            values = values[~same]
    return values


def without_repeated_lowest(values: NDArray[Any], least_gap: float) -> NDArray[Any]:
    """Leave out the least of values, shape (n,), where it is repeated and nothing is near it; NaN too."""
    values = values[np.isfinite(values)]
    for _ in range(_MOST_FILLS):
        if not values.size:
            break
        same = values == values.min()
        count = int(np.count_nonzero(same))
        if count < _FEWEST_LOWEST or not _apart(values[~same], float(values.min()), count, least_gap):
            break
        values = values[~same]
    return values


def certain_fills(values: Float32, level: Level, low: float, high: float) -> list[float]:
    """Find repeated values that no unit allows, or far beyond any ground's level and next to no other value.

    They must be repeated in all bands of pixels, or in one band.

    Parameters
    ----------
    values : float32 array, shape (B, n)
        As read.
    level : callable
    low, high : float
        Levels of ground lie between.
    """
    known, equal = _equal(values)
    found = _repeated(values[0, equal], _least(int(np.count_nonzero(known))))
    for band in values:
        found += _repeated(band, _least(int(np.count_nonzero(np.isfinite(band)))))
    return [fill for fill in dict.fromkeys(found) if fill and _is_certain(values, fill, level, low, high)]


def _is_certain(values: Float32, fill: float, level: Level, low: float, high: float) -> bool:
    at = _level_of(fill, level)
    if low <= at <= high:
        return False
    same = values == np.float32(fill)
    others = level(values[np.isfinite(values) & ~same])
    # A NaN, of a value that no unit allows, is near to nothing.
    return _few_near(others, at, int(np.count_nonzero(same)), _CERTAIN_GAP)


def shared_fills(values: Float32, level: Level, least_gap: float, ground: Ground) -> list[float]:
    """Find repeated values that pixels hold in all bands, and that lie apart from the others in some band.

    Parameters
    ----------
    values : float32 array, shape (B, n)
        As read.
    level : callable
    least_gap : float
        Level within which values always count as near.
    ground : callable
    """
    known, equal = _equal(values)
    return _apart_from_others(values[:, known], equal[known], _FEWEST_APART, level, least_gap, ground)


def spikes(values: Float32, level: Level, least_gap: float, ground: Ground) -> list[float]:
    """Find much repeated values of a band alone, shape (n,), that lie apart from the others; see `shared_fills`."""
    known = values[None, np.isfinite(values)]
    least = max(_FEWEST_APART, known.size // 100)
    return _apart_from_others(known, np.ones(known.shape[1], bool), least, level, least_gap, ground)


def _apart_from_others(
    values: Float32, equal: Bool, least: int, level: Level, least_gap: float, ground: Ground
) -> list[float]:
    fills = _repeated(values[0, equal], max(least, _least(equal.size)))
    others = level(values[:, ~(equal & np.isin(values[0], np.array(fills, np.float32)))])
    if not fills or not np.isfinite(others).any(axis=1).all():
        return []
    kept = []
    for fill in fills:
        at, count = _level_of(fill, level), int(np.count_nonzero(values[0, equal] == np.float32(fill)))
        if not ground(at, others) and any(_apart(band, at, count, least_gap) for band in others):
            kept.append(fill)
    return kept


def _equal(values: Float32) -> tuple[Bool, Bool]:
    """Tell which pixels of values, shape (B, n), are known in all bands, and which of them are equal in all."""
    known = np.isfinite(values).all(axis=0)
    return np.asarray(known), np.asarray(known & (values == values[:1]).all(axis=0))


def holds(values: Float32, fill: float) -> bool:
    """Tell whether a band, shape (n,), holds a value more often than by accident."""
    return int(np.sum(values == np.float32(fill))) >= _least(int(np.count_nonzero(np.isfinite(values))))


def _least(size: int) -> int:
    return max(_FEWEST, math.ceil(_LEAST_SHARE * size))


def _repeated(values: NDArray[Any], least: int) -> list[float]:
    """Find the commonest values that occur so often, NaN apart."""
    found, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    order = np.argsort(-counts)[:_MOST_FILLS]
    return [float(found[index]) for index in order if counts[index] >= least]


def _level_of(fill: float, level: Level) -> float:
    return float(level(np.array([fill], np.float32))[0])


def _apart(others: NDArray[Any], at: float, count: int, least_gap: float) -> bool:
    others = others[np.isfinite(others)]
    if not others.size:
        return False
    return _few_near(others, at, count, max(_NEAR * abs(float(np.median(others)) - at), least_gap))


def _few_near(others: NDArray[Any], at: float, count: int, gap: float) -> bool:
    return int(np.count_nonzero(np.abs(others - at) <= gap)) <= _NEAR * count


class Surroundings:
    """What pixels in and around fills are like, added up over windows of a file.

    Parameters
    ----------
    fills : sequence of Fill
    """

    def __init__(self, fills: Sequence[Fill]) -> None:
        self._fills = fills
        self._touching = np.zeros((len(fills), 2), np.int64)  # pixels of each fill that touch another, and all
        # Shape (3, bands, distances): pixels on the fill's side of those further away, those clearly so, and all.
        self._sides: Any = 0

    def add(self, values: Float32) -> None:
        """Look at a window of values as read, shape (B, H, W)."""
        for number, fill in enumerate(self._fills):
            mask = fill_mask(values, [fill])
            near = np.zeros_like(mask)
            near[1:] |= mask[:-1]
            near[:-1] |= mask[1:]
            near[:, 1:] |= mask[:, :-1]
            near[:, :-1] |= mask[:, 1:]
            self._touching[number] += np.count_nonzero(mask & near), np.count_nonzero(mask)
        hole = fill_mask(values, self._fills)
        numbers = np.array([fill.value for fill in self._fills], np.float32)
        for turns in range(4):
            self._sides = self._sides + _sides(np.rot90(values, turns, (1, 2)), np.rot90(hole, turns), numbers)

    def fills(self) -> Fills:
        """Return the fills whose pixels touch each other, or that no unit allows, and their rim."""
        kept = tuple(
            fill
            for fill, (touching, count) in zip(self._fills, self._touching, strict=True)
            if not fill.together or 2 * touching > count
        )
        return Fills(kept, self._rim() if kept else 0)

    def _rim(self) -> int:
        toward, clearly, seen = self._sides
        blended = ((toward > _BLENDED * seen) & (2 * clearly > seen) & (seen >= _ENOUGH)).any(axis=0)
        rings = int(np.argmin(np.append(blended, False)))
        return min(rings + 1, LONGEST_RIM) if rings else 0  # wider kernels reach one pixel further than they show


def _sides(values: Float32, hole: Bool, numbers: Float32) -> NDArray[np.int64]:
    """Compare pixels to the right of fills with those `_REFERENCE` pixels from them; see `Surroundings`."""
    counts = np.zeros((3, len(values), LONGEST_RIM), np.int64)
    rows, columns = np.nonzero(hole[:, : -_REFERENCE - 1] & ~hole[:, 1:-_REFERENCE])
    rows, columns = rows[:_MOST_EDGES, None], columns[:_MOST_EDGES, None]
    if not rows.size:
        return counts
    places = columns + np.arange(1, _REFERENCE + 1)
    free = ~hole[rows, places].any(axis=1)
    rows, columns, places = rows[free], columns[free], places[free]
    fill, line = values[:, rows[:, 0], columns[:, 0]], values[:, rows, places]
    far = line[:, :, -1:]
    fill[~np.isin(fill, numbers)] = np.nan  # of a band that holds measurements there
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        part = (line[:, :, :LONGEST_RIM] - far) / (fill[:, :, None] - far)  # NaN where anything is missing
    for count, some in zip(counts, (part > 0, part > _PART, np.abs(part) > 0), strict=True):
        count[:] = some.sum(axis=1)
    return counts
