"""The distribution of the training pixels, and the share of a scene's pixels outside of it.

Each band has two ranges: one of its values, and one of the residual that the other bands of the same pixel do not
explain. The residual detects what the values cannot. Haze brightens dark pixels to values that bright ground has too,
but then blue no longer fits red. Noise and a wrong band order show up in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from refnet_cli.errors import WeightsError
from refnet_cli.system.config import read
from refnet_cli.types import Float32, Float64

QUANTILES = (0.01, 0.5, 0.99)
FEWEST, FEWEST_LEARNED = 100, 1000  # minimum number of pixels to compare a scene, and to describe training data
MARGIN = 0.02  # tolerance outside a range, relative to its width
NOISE = {"optical": 20.0, "sar": 0.5}  # minimum tolerance in reflectance x 10,000 and dB
NOISE_TRANSFORMED = {"optical": 0.01, "sar": 0.25}  # the same after `_transform`; lower bound of a residual's deviation
_DARKEST = 300.0  # reflectance x 10,000 added before the logarithm; smaller differences have little effect
_PER_CROP = 2048  # approximate number of pixels

Numbers = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class BandDrift:
    """How much a band of a scene differs from the training data; shares are of the compared pixels."""

    median: float
    """Median of the scene, in the card's unit."""
    seen: tuple[float, ...]
    """Quantiles 1%, 50% and 99% of the training data."""
    below: float
    """Share of pixels below the 1% quantile."""
    above: float
    """Share of pixels above the 99% quantile."""
    lower: float
    """Share of pixels in which the band is lower than predicted from the other bands."""
    higher: float
    """Share of pixels in which the band is higher than predicted from the other bands."""

    @property
    def outside(self) -> float:
        """Share of pixels outside the range of values or of residuals, whichever is larger."""
        return max(self.below + self.above, self.lower + self.higher)


@dataclass(frozen=True)
class InputDistribution:
    """Distribution of one sensor's training pixels.

    Raises
    ------
    WeightsError
        If the numbers do not fit the bands.
    """

    bands: tuple[str, ...]
    quantiles: Numbers
    """`QUANTILES` of each band, in the card's unit."""
    centre: tuple[float, ...]
    """Mean of each band after `_transform`."""
    relations: Numbers
    """For each band, the weights of all bands' differences from the centre, 1 for the band itself. The weighted sum is
    the band's residual: the part that the other bands do not explain."""
    unexplained: Numbers
    """Quantiles 1% and 99% of each band's residual."""

    def __post_init__(self) -> None:
        count = len(self.bands)
        shapes = {
            "quantiles": (count, len(QUANTILES)), "centre": (count,), "relations": (count, count),
            "unexplained": (count, 2),
        }  # fmt: skip
        for name, shape in shapes.items():
            try:
                values = np.array(getattr(self, name), np.float64)
            except ValueError:  # lists of different lengths
                values = np.empty(0)
            if values.shape != shape or not np.isfinite(values).all():
                raise WeightsError(f"{name} must be {' x '.join(map(str, shape))} finite numbers.")

    @classmethod
    def of(cls, values: Float32, bands: Sequence[str], sensor: str) -> InputDistribution | None:
        """Compute the distribution of training pixels.

        Parameters
        ----------
        values : float32 array, shape (B, n)
            NaN where there is no measurement.
        bands : sequence of str
        sensor : str
            ``optical`` or ``sar``.

        Returns
        -------
        InputDistribution or None
            None for fewer than 1,000 valid pixels.
        """
        known = _known(values)
        if known.shape[1] < FEWEST_LEARNED:
            return None
        transformed = _transform(known, sensor)
        centre = transformed.mean(axis=1)
        covariance = np.atleast_2d(np.cov(transformed)) + np.eye(len(bands)) * NOISE_TRANSFORMED[sensor] ** 2
        precision = np.linalg.inv(covariance)
        relations = precision / np.diag(precision)[:, None]
        residuals = _combine(relations, transformed - centre[:, None])
        return cls(
            tuple(bands),
            _as_numbers(np.quantile(known, QUANTILES, axis=1).T),
            tuple(_round(value) for value in centre),
            _as_numbers(relations),
            _as_numbers(np.quantile(residuals, (QUANTILES[0], QUANTILES[-1]), axis=1).T),
        )

    def compare(self, values: Float32, sensor: str) -> dict[str, BandDrift]:
        """Compare the pixels of a scene with the distribution; empty for fewer than 100 valid pixels.

        See `of` for the parameters.
        """
        known = _known(values)
        if known.shape[1] < FEWEST:
            return {}
        quantiles = np.array(self.quantiles)
        below, above = _outside(known, quantiles[:, [0, -1]], NOISE[sensor])
        residuals = _combine(np.array(self.relations), _transform(known, sensor) - np.array(self.centre)[:, None])
        lower, higher = _outside(residuals, np.array(self.unexplained), NOISE_TRANSFORMED[sensor])
        if len(self.bands) == 1:  # there are no other bands to predict it from
            lower, higher = np.zeros((2, 1))
        shares = zip(below, above, lower, higher, strict=True)
        medians = map(_round, np.median(known, axis=1))
        return {
            band: BandDrift(median, seen, *map(_round, share))
            for band, median, seen, share in zip(self.bands, medians, self.quantiles, shares, strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the distribution as a plain dict, ready for JSON."""
        return {name: _as_lists(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, entries: Any) -> InputDistribution:
        """Build a distribution from the result of `to_dict`.

        Raises
        ------
        WeightsError
            If entries are missing, unknown or invalid.
        """
        return read(cls, entries, "the distribution", error=WeightsError)


def describe_distributions(
    crops: Iterable[tuple[Float32, Float32]], bands: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Return the card's entry `refnet_cli.prediction.drift.DISTRIBUTIONS`: how the training pixels are distributed.

    Parameters
    ----------
    crops : iterable of (optical, sar)
        Augmented crops as in training, because the network knows what augmentation adds. float32, shapes (Bo, H, W)
        and (Bs, H, W), NaN where there is no measurement. Every crop has the same weight.
    bands : mapping
        Band names by sensor, ``optical`` and ``sar``.

    Returns
    -------
    dict
        By sensor. Sensors with fewer than 1,000 valid pixels are left out.
    """
    pixels: dict[str, list[Float32]] = {"optical": [], "sar": []}
    for crop in crops:
        for values, taken in zip(crop, pixels.values(), strict=True):
            taken.append(thin(values, _PER_CROP))
    found = {
        name: InputDistribution.of(np.concatenate(taken, axis=1), bands[name], name) for name, taken in pixels.items()
    }
    return {name: distribution.to_dict() for name, distribution in found.items() if distribution}


def thin(values: Float32, most: int) -> Float32:
    """Return about ``most`` pixels of an image (B, H, W) from a regular grid, as (B, n)."""
    step = max(math.isqrt(values.shape[1] * values.shape[2] // most), 1)
    return values[:, ::step, ::step].reshape(len(values), -1)


def _known(values: Float32) -> Float64:
    """Return the pixels that are valid in all bands."""
    return values[:, np.isfinite(values).all(axis=0)].astype(np.float64)


def _transform(values: Float64, sensor: str) -> Float64:
    """Transform values so that bands depend on each other about linearly, on dark and on bright ground."""
    return values if sensor == "sar" else np.log(np.maximum(values, 0) + _DARKEST)


def _combine(relations: Float64, differences: Float64) -> Float64:
    # Not a matrix product: its last bits depend on the number of threads.
    return np.asarray(np.einsum("ij,jn->in", relations, differences))


def _outside(values: Float64, ranges: Float64, noise: float) -> tuple[Float64, Float64]:
    """Return the shares of each band's values below and above its range."""
    margin = np.maximum(MARGIN * (ranges[:, 1] - ranges[:, 0]), noise)
    low, high = (ranges[:, 0] - margin)[:, None], (ranges[:, 1] + margin)[:, None]
    return (values < low).mean(axis=1), (values > high).mean(axis=1)


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _as_numbers(values: Float64) -> Numbers:
    return tuple(tuple(_round(value) for value in row) for row in values)


def _as_lists(value: Any) -> Any:
    return [_as_lists(part) for part in value] if isinstance(value, tuple) else value
