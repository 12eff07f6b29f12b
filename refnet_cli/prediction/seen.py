"""What a network learned from, as ranges of its inputs' pixels, and how many pixels of a scene lie outside.

Of each band there are two ranges: that of its pixels, and that of what the other bands of the same pixel do not
explain. The second finds what the first cannot: haze lifts dark pixels to values that bright ground has too, but blue
light then no longer fits red light. Noise and bands in the wrong order look the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from refnet_cli.errors import WeightsError
from refnet_cli.types import Float32, Float64

QUANTILES = (0.01, 0.5, 0.99)
FEWEST, FEWEST_LEARNED = 100, 1000  # pixels to judge a scene by, and to describe what was learned from
MARGIN = 0.02  # of a range's width, by which pixels may leave it
NOISE = {"optical": 20.0, "sar": 0.5}  # reflectance x 10,000 and dB, by which they may do so in any case
NOISE_SPREAD = {"optical": 0.01, "sar": 0.25}  # the same after `_spread`; no band is better explained than that
_DARKEST = 300.0  # reflectance x 10,000 that is added before the logarithm: differences below it matter little
_PER_CROP = 2048  # pixels, about

Numbers = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class BandDrift:
    """How unlike a band of a scene is to what weights learned from; shares are of the compared pixels."""

    median: float
    """Of the scene, in the card's unit."""
    seen: tuple[float, ...]
    """Quantiles 1 %, 50 % and 99 % of what was learned from."""
    below: float
    """Share of pixels below the first of these."""
    above: float
    """Share of pixels above the last of these."""
    lower: float
    """Share of pixels in which the band is lower than the other bands lead to expect."""
    higher: float
    """Share of pixels in which it is higher."""

    @property
    def outside(self) -> float:
        """The larger share of pixels outside a range."""
        return max(self.below + self.above, self.lower + self.higher)


@dataclass(frozen=True)
class Seen:
    """What weights learned from one sensor.

    Raises
    ------
    WeightsError
        If the numbers do not fit the bands.
    """

    bands: tuple[str, ...]
    quantiles: Numbers
    """For each band the `QUANTILES` of its pixels, in the card's unit."""
    centre: tuple[float, ...]
    """Mean of each band after `_spread`."""
    relations: Numbers
    """For each band, by what the differences of all bands from the centre are multiplied before they are added up, 1
    for the band itself. The sum is what the other bands do not explain of it."""
    unexplained: Numbers
    """For each band the quantiles 1 % and 99 % of that sum."""

    def __post_init__(self) -> None:
        count = len(self.bands)
        shapes = {
            "quantiles": (count, len(QUANTILES)), "centre": (count,), "relations": (count, count),
            "unexplained": (count, 2),
        }  # fmt: skip
        for name, shape in shapes.items():
            try:
                values = np.array(getattr(self, name), np.float64)
            except (TypeError, ValueError) as error:
                raise WeightsError(f"{name} of what was seen are no numbers.") from error
            if values.shape != shape or not np.isfinite(values).all():
                raise WeightsError(f"{name} of what was seen are not {' x '.join(map(str, shape))} finite numbers.")

    @classmethod
    def of(cls, values: Float32, bands: Sequence[str], sensor: str) -> Seen | None:
        """Describe pixels that were learned from.

        Parameters
        ----------
        values : float32 array, shape (B, n)
            NaN where there is no measurement.
        bands : sequence of str
        sensor : str
            ``optical`` or ``sar``.

        Returns
        -------
        Seen or None
            None for fewer than 1,000 pixels.
        """
        known = _known(values)
        if known.shape[1] < FEWEST_LEARNED:
            return None
        spread = _spread(known, sensor)
        centre = spread.mean(axis=1)
        covariance = np.atleast_2d(np.cov(spread)) + np.eye(len(bands)) * NOISE_SPREAD[sensor] ** 2
        precision = np.linalg.inv(covariance)
        relations = precision / np.diag(precision)[:, None]
        left = _combine(relations, spread - centre[:, None])
        return cls(
            tuple(bands),
            _as_numbers(np.quantile(known, QUANTILES, axis=1).T),
            tuple(_round(value) for value in centre),
            _as_numbers(relations),
            _as_numbers(np.quantile(left, (QUANTILES[0], QUANTILES[-1]), axis=1).T),
        )

    def compare(self, values: Float32, sensor: str) -> dict[str, BandDrift]:
        """Compare a scene's pixels, see `of` for the parameters; empty for fewer than 100."""
        known = _known(values)
        if known.shape[1] < FEWEST:
            return {}
        quantiles = np.array(self.quantiles)
        below, above = _outside(known, quantiles[:, [0, -1]], NOISE[sensor])
        left = _combine(np.array(self.relations), _spread(known, sensor) - np.array(self.centre)[:, None])
        lower, higher = _outside(left, np.array(self.unexplained), NOISE_SPREAD[sensor])
        if len(self.bands) == 1:  # no other band explains anything
            lower, higher = np.zeros((2, 1))
        shares = zip(below, above, lower, higher, strict=True)
        medians = map(_round, np.median(known, axis=1))
        return {
            band: BandDrift(median, seen, *map(_round, share))
            for band, median, seen, share in zip(self.bands, medians, self.quantiles, shares, strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a plain dict that JSON can hold."""
        return {name: _as_lists(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, entries: Any) -> Seen:
        """Make it of what `to_dict` returned.

        Raises
        ------
        WeightsError
            If entries are missing, unknown or impossible.
        """
        if not isinstance(entries, Mapping) or set(entries) != {field.name for field in fields(cls)}:
            raise WeightsError(f"what was seen must have exactly the entries {', '.join(f.name for f in fields(cls))}.")
        return cls(**{name: _as_tuples(value) for name, value in entries.items()})


def describe_seen(
    crops: Iterable[tuple[Float32, Float32]], bands: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Return what a card keeps of the pixels that a network learns from, see `refnet_cli.prediction.drift.SEEN`.

    Parameters
    ----------
    crops : iterable of (optical, sar)
        As the network is given them, augmented: what augmentation adds is no longer new to it. float32, shapes
        (Bo, H, W) and (Bs, H, W), NaN where there is no measurement. Each counts alike.
    bands : mapping
        Names by sensor, ``optical`` and ``sar``.

    Returns
    -------
    dict
        Without sensors of which fewer than 1,000 pixels were measured.
    """
    pixels: dict[str, list[Float32]] = {"optical": [], "sar": []}
    for crop in crops:
        for values, taken in zip(crop, pixels.values(), strict=True):
            taken.append(thin(values, _PER_CROP))
    found = {name: Seen.of(np.concatenate(taken, axis=1), bands[name], name) for name, taken in pixels.items()}
    return {name: seen.to_dict() for name, seen in found.items() if seen}


def thin(values: Float32, most: int) -> Float32:
    """Take about that many pixels of an image (B, H, W), on a lattice, as (B, n)."""
    step = max(math.isqrt(values.shape[1] * values.shape[2] // most), 1)
    return values[:, ::step, ::step].reshape(len(values), -1)


def _known(values: Float32) -> Float64:
    """Pixels of which all bands were measured."""
    return values[:, np.isfinite(values).all(axis=0)].astype(np.float64)


def _spread(values: Float64, sensor: str) -> Float64:
    """Bring values to a scale on which bands depend on each other about linearly, and on dark ground as on bright."""
    return values if sensor == "sar" else np.log(np.maximum(values, 0) + _DARKEST)


def _combine(relations: Float64, differences: Float64) -> Float64:
    # Not a matrix product, whose last bits depend on how many threads there are.
    return np.asarray(np.einsum("ij,jn->in", relations, differences))


def _outside(values: Float64, ranges: Float64, noise: float) -> tuple[Float64, Float64]:
    """Shares of each band's values below and above its range."""
    margin = np.maximum(MARGIN * (ranges[:, 1] - ranges[:, 0]), noise)
    low, high = (ranges[:, 0] - margin)[:, None], (ranges[:, 1] + margin)[:, None]
    return (values < low).mean(axis=1), (values > high).mean(axis=1)


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _as_numbers(values: Float64) -> Numbers:
    return tuple(tuple(_round(value) for value in row) for row in values)


def _as_lists(value: Any) -> Any:
    return [_as_lists(part) for part in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(part) for part in value) if isinstance(value, list | tuple) else value
