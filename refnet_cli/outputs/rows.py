"""Finished rows of a prediction, and the layers that outputs and the journal derive from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.classes.crosswalk import Crosswalk
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.sensors.quality import SENSOR_BITS
from refnet_cli.types import Float32, UInt8, UInt16

BELOW_THRESHOLD = 16
"""Quality bit of pixels below the probability threshold; `refnet_cli.sensors.quality` has the other bits."""
STEPS = 250
"""8-bit probabilities count steps of 1/250, which gives GDAL's scale few digits; 255 is nodata."""
PROBABILITY_NODATA = 255
LOW = 0.5
"""A pixel has low confidence if no class reaches this probability."""
CONFIDENCE = ("probability", "entropy", "margin")
"""Bands of `Rows.confidence`."""


class Layer(NamedTuple):
    """A layer of rows that outputs may need, and that an interrupted run keeps for them."""

    dtype: type[Any]
    bands: int | None = 1
    """None for one band per class; a single band has no axis."""


LAYERS: dict[str, Layer] = {
    "codes": Layer(np.uint8),
    "quality": Layer(np.uint8),
    "dates": Layer(np.uint8),
    "max_probability": Layer(np.uint8),
    "confidence": Layer(np.uint8, len(CONFIDENCE)),
    "probabilities": Layer(np.uint8, None),
}


def shape_of(layer: str, scheme: ClassScheme, rows: int, width: int) -> tuple[int, ...]:
    """Return the shape of a layer: (rows, width) or (B, rows, width)."""
    bands = LAYERS[layer].bands
    if bands is None:
        return len(scheme.codes), rows, width
    return (rows, width) if bands == 1 else (bands, rows, width)


@dataclass(frozen=True)
class Rows:
    """Finished rows of a map, over its full width.

    Raises
    ------
    ValueError
        If the translation's source is another scheme, the quality has the wrong shape, or both probabilities and codes
        are missing.
    """

    row: int
    """Number of the first row."""
    probabilities: Float32 | None
    """Shape (K, rows, width); layer 0 is "no data", layer i belongs to ``scheme.codes[i - 1]``. None for rows of an
    earlier run, which kept the layers in `found`."""
    valid: NDArray[np.bool_]
    """False for pixels without data, shape (rows, width)."""
    scheme: ClassScheme
    """The network's class scheme."""
    crosswalk: Crosswalk | None = None
    """Crosswalk from the network's scheme to that of `codes`, if they differ."""
    quality: UInt8 | UInt16 | None = None
    """Sensors that saw each pixel, as numbered in `QUALITY`, and bits for masked pixels, shape (rows, width). Of
    several dates, the upper eight bits count those that saw the pixel."""
    found: Mapping[str, NDArray[Any]] | None = None
    """Layers of an earlier run by their names in `LAYERS`, in ``code_scheme``."""
    threshold: float = 0.0
    """Pixels with a lower probability get no class."""

    def __post_init__(self) -> None:
        if self.crosswalk is not None and self.crosswalk.source != self.scheme:
            raise ValueError(
                f"The crosswalk is from class scheme {self.crosswalk.source.name!r}, not {self.scheme.name!r}."
            )
        if self.probabilities is None and "codes" not in (self.found or {}):
            raise ValueError("Rows need probabilities, or codes of an earlier run.")
        if self.quality is not None and self.quality.shape != self.valid.shape:
            raise ValueError(f"The quality has the shape {self.quality.shape}; expected {self.valid.shape}.")

    def check(self) -> None:
        """Raise ValueError if probabilities or found layers have the wrong shape."""
        height, width = self.valid.shape
        needed: tuple[int, ...] = (self.scheme.classes, height, width)
        if self.probabilities is not None and self.probabilities.shape != needed:
            raise ValueError(f"Probabilities have the shape {self.probabilities.shape}; expected {needed}.")
        for name, layer in (self.found or {}).items():
            needed = shape_of(name, self.code_scheme, height, width)
            if layer.shape != needed:
                raise ValueError(f"{name.capitalize()} have the shape {layer.shape}; expected {needed}.")

    @property
    def code_scheme(self) -> ClassScheme:
        """Class scheme of `codes`."""
        return self.scheme if self.crosswalk is None else self.crosswalk.target

    def layer(self, name: str) -> NDArray[Any]:
        """Return a layer by its name in `LAYERS`.

        Raises
        ------
        ValueError
            If these rows are from an earlier run that did not keep the layer.
        """
        if self.found is not None and name in self.found:
            return self.found[name]
        if self.probabilities is None:
            raise ValueError(f"The earlier run of these rows did not keep {name}.")
        made: NDArray[Any] = getattr(self, f"_{name}")
        return made

    @property
    def codes(self) -> UInt8:
        """Code of each pixel's most probable class in `code_scheme`, 0 for no class, shape (rows, width)."""
        return self.layer("codes")

    @property
    def confidence(self) -> UInt8:
        """Confidence of the map, shape (3, rows, width), in steps of 1/`STEPS`; `PROBABILITY_NODATA` for no class.

        The bands of `CONFIDENCE`: the probability of the pixel's class, the entropy of all classes' probabilities
        relative to its maximum, and the margin over the second most probable class.
        """
        return self.layer("confidence")

    @property
    def sensors(self) -> UInt8:
        """Sensors that saw each pixel, as numbered in `QUALITY`, shape (rows, width).

        Raises
        ------
        ValueError
            If the rows have no quality.
        """
        if self.quality is None:
            raise ValueError("These rows have no quality.")
        return np.asarray(self.quality & np.uint8(SENSOR_BITS), np.uint8)

    @cached_property
    def shares(self) -> Float32:
        """Probability of each class of `code_scheme`, without "no data", shape (K - 1, rows, width).

        Classes with the same target are added up. Classes without a target are missing from the sum of 1.
        """
        if self.probabilities is None:
            raise ValueError("The earlier run of these rows did not keep probabilities.")
        classes = self.probabilities[1:]
        total = np.maximum(_sum(classes), np.finfo(np.float32).tiny)
        if self.crosswalk is None:
            return np.asarray(classes / total, np.float32)
        shares = np.zeros((len(self.code_scheme.codes), *self.valid.shape), np.float32)
        for code, layer in zip(self.scheme.codes, classes, strict=True):
            target = int(self.crosswalk.table[code])
            if target:
                shares[self.code_scheme.codes.index(target)] += layer / total
        return shares

    @cached_property
    def _best(self) -> UInt8:
        """Codes before the threshold is applied."""
        assert self.probabilities is not None  # checked by the caller
        codes = class_codes(self.probabilities, self.valid, self.scheme)
        return codes if self.crosswalk is None else self.crosswalk.table[codes]

    @cached_property
    def _probability(self) -> Float32:
        """Probability of each pixel's class; 0 where there is no class."""
        number = np.zeros(256, np.intp)
        number[list(self.code_scheme.codes)] = np.arange(len(self.code_scheme.codes))
        chosen = np.take_along_axis(self.shares, number[self._best][None], axis=0)[0]
        return np.where(self._best > 0, chosen, np.float32(0))

    @cached_property
    def _unsure(self) -> NDArray[np.bool_]:
        return np.asarray((self._best > 0) & (self._probability < np.float32(self.threshold)))

    @cached_property
    def _codes(self) -> UInt8:
        return np.where(self._unsure, np.uint8(0), self._best) if self.threshold else self._best

    @property
    def _quality(self) -> UInt8:
        assert self.quality is not None  # checked by `sensors`
        quality = self.sensors | np.asarray(self.quality & np.uint8(255), np.uint8)
        return quality | np.uint8(BELOW_THRESHOLD) * self._unsure if self.threshold else quality

    @property
    def _dates(self) -> UInt8:
        """Number of dates that saw each pixel; 0 for scenes of one date."""
        if self.quality is None or self.quality.dtype != np.uint16:
            return np.zeros(self.valid.shape, np.uint8)
        return (self.quality >> np.uint16(8)).astype(np.uint8)

    @cached_property
    def _max_probability(self) -> UInt8:
        """Probability of the network's most probable class, given that there is one, rounded down to 1/`STEPS`.

        `PROBABILITY_NODATA` for pixels without sensor data.
        """
        assert self.probabilities is not None  # checked by the caller
        classes = self.probabilities[1:]
        total = np.maximum(_sum(classes), np.finfo(np.float32).tiny)
        steps = np.nan_to_num(np.fmax.reduce(classes) / total * np.float32(STEPS))
        stored: UInt8 = np.clip(steps, 0, STEPS).astype(np.uint8)  # rounds down
        stored[~self.valid] = PROBABILITY_NODATA
        return stored

    @cached_property
    def _confidence(self) -> UInt8:
        shares, probability = self.shares, self._probability
        others = np.partition(shares, -2, axis=0)[-2] if len(shares) > 1 else np.zeros_like(probability)
        greatest = np.log(np.float32(max(len(shares), 2)))
        entropy = -_sum(shares * np.log(np.maximum(shares, np.finfo(np.float32).tiny))) / greatest
        layers = np.stack([_steps(layer) for layer in (probability, entropy, probability - others)])
        layers[:, self._codes == 0] = PROBABILITY_NODATA
        return layers

    @cached_property
    def _probabilities(self) -> UInt8:
        stored = _steps(self.shares)
        stored[:, self._best == 0] = PROBABILITY_NODATA
        return stored


def _sum(layers: Float32) -> Float32:
    """Add layers one by one: numpy's order of additions, and so the last bit, would depend on the number of rows."""
    total: Float32 = layers[0].copy()
    for layer in layers[1:]:
        total += layer
    return total


def _steps(shares: Float32) -> UInt8:
    return np.asarray(np.rint(np.clip(shares, 0, 1) * np.float32(STEPS)).astype(np.uint8))


def class_codes(probabilities: NDArray[np.float32], valid: NDArray[np.bool_], scheme: ClassScheme) -> UInt8:
    """Return the code of each pixel's most probable class.

    Parameters
    ----------
    probabilities : float32 array, shape (K, rows, width)
        Layer 0, "no data", is never chosen.
    valid : bool array, shape (rows, width)
    scheme : ClassScheme
        Defines the code of each layer; ``scheme.classes`` is K.

    Returns
    -------
    uint8 array, shape (rows, width)
        0 where the pixel is invalid or no class has a probability above zero.
    """
    best = probabilities[1].copy()
    chosen = np.zeros(best.shape, np.uint8)
    better = np.empty(best.shape, bool)
    for number, layer in enumerate(probabilities[2:], start=1):
        np.greater(layer, best, out=better)
        np.fmax(best, layer, out=best)
        # Numbers increase, so the maximum is the latest: much faster than a masked assignment.
        np.maximum(chosen, better.view(np.uint8) * np.uint8(number), out=chosen)
    codes = np.asarray(scheme.codes, np.uint8)[chosen]
    codes[~(valid & (best > 0))] = 0
    return codes
